//! The agent through its public door: whole backups against a fake fleet that keeps the rules of
//! the protocol and can be told to misbehave, and whole restores of what it kept.

mod backup;
mod export;
mod fleet;
mod keys;
mod local;
mod restore;
mod story;
mod tree;
mod unprivileged;
mod upload;
