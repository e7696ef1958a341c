// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Shared code of the guest's programs: the agent (PID 1), the containers' `init`, and the
//! tools `checkpoint` and `restart`.

pub mod cgroup;
pub mod explain;
pub mod stuck;
pub mod sys;
