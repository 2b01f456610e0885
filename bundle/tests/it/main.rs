//! Tests of the sealed format through its public door: round trips, damage, mistaken identity,
//! frozen bytes, and a reader written from `docs/formats.md` alone.

mod authority;
mod damage;
mod frozen;
mod frozen_shares;
mod identity;
mod key_bundle;
mod keys;
mod known_answers;
mod manifest;
mod seal;
mod shares;
mod stranger;
mod stranger_share;
mod world;
