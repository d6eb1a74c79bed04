"""The paper, top to bottom. Reading order:

    3.1  values          expectile V, Q, and the advantage-weighted policy (IQL)
    3.2  world_model     the ensemble of Gaussian dynamics
         uncertainty     pairwise Jensen-Shannon divergence, the gate on the dynamics
    3.3  shortfall       where the recording falls short of V
         planning        MPC with a terminal value
         support         the gate on where plans may end (ours)
         imagination     Algorithm 1: plan, step, gate, accept, splice
    3.4  transformer     the causal transformer
         distillation    regression minus alpha Q, conditioned on V(s)
         ask             how much more than V(s) to ask for (ours)
         acting          the policies in an environment
         algorithm       all of it as one class, a property a stage

Under them: dataset (transitions, episodes, windows), nets and ensemble (batched networks),
training (seeds, checkpointed loop, schedules, speed).
"""
