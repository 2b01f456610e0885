//! Tests of the whole product: real processes, real files, real kills. One file per area; the
//! harness is the library of this package. `tidy` needs no process.

mod access;
mod all_lost;
mod audit;
mod bucket;
mod bundles;
mod canary;
mod damage;
mod enroll;
mod fleet_restore;
mod founding;
mod hosts;
mod hot;
mod inside;
mod key_life;
mod keys;
mod membership;
mod operable;
mod operations;
mod quorum;
mod quota;
mod restart;
mod schedule;
mod snapshot;
mod space;
mod start;
mod story;
mod summary;
mod tidy;
mod time;
mod units;
mod upgrade;
mod upload;
mod way_back;
