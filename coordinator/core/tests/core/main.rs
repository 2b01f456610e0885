//! Tests of the replicated state through its one door, `apply`. Each invariant has a function of
//! its own, named after it, that fails when the check is taken out of the product.

mod audit;
mod bucket;
mod carried;
mod clusters;
mod codec;
mod commit;
mod commit_headers;
mod delayed;
mod enrolment;
mod findings;
mod fixtures;
mod fuzz;
mod joining;
mod keys;
mod leases;
mod levels;
mod members;
mod random;
mod recover;
mod replicas;
mod restore;
mod scenario;
mod sessions;
mod status;
mod time;
