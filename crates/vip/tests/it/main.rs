//! The real kernel, in network namespaces that each test makes for itself: two machines with a cable between them.

mod holding;
mod segment;
