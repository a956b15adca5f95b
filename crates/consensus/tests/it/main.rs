//! Replicas on simulated disks, in one thread.

mod cluster;
mod failures;
mod hostile;
mod membership;
mod opening;
mod random;
mod recover;
mod replication;
mod sim_disk;
