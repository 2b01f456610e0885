//! The rows of the certificate authority and of join tokens.

use prost::Message;
use proto_types::{LogTime, NodeId};

use super::super::DecodeError;
use super::super::wire::{At, WireAuthority, array, array_or_none};
use super::rows::Row;
use crate::rows::{Authority, JoinToken, Redeemed};

pub(super) fn put_authority(authority: &Authority) -> Row {
    Row::Authority(WireAuthority {
        root_certificate: authority.root_certificate.clone(),
        sealed_root_key: authority.sealed_root_key.clone(),
    })
}

pub(super) fn get_authority(wire: WireAuthority) -> Authority {
    Authority { root_certificate: wire.root_certificate, sealed_root_key: wire.sealed_root_key }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WireJoinToken {
    #[prost(bytes = "vec", tag = "1")]
    hash: Vec<u8>,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, tag = "3")]
    address: String,
    #[prost(uint64, tag = "4")]
    expires_ms: u64,
    /// 0: not redeemed.
    #[prost(uint64, tag = "5")]
    node: u64,
    #[prost(bytes = "vec", tag = "6")]
    key: Vec<u8>,
}

pub(super) fn put_join_token(hash: &[u8; 32], token: &JoinToken) -> Row {
    Row::JoinToken(WireJoinToken {
        hash: hash.to_vec(),
        name: token.name.clone(),
        address: token.address.clone(),
        expires_ms: token.expires.as_millis(),
        node: token.redeemed.map_or(0, |redeemed| redeemed.node.get()),
        key: token.redeemed.map(|redeemed| redeemed.key.to_vec()).unwrap_or_default(),
    })
}

pub(super) fn get_join_token(wire: WireJoinToken) -> Result<([u8; 32], JoinToken), DecodeError> {
    let at = |field| At("join token row", field);
    let key = array_or_none(at("key"), &wire.key)?;
    let redeemed = match (wire.node, key) {
        (0, None) => None,
        (node, Some(key)) if node != 0 => Some(Redeemed { node: NodeId::new(node), key }),
        _ => return Err(at("node").invalid()),
    };
    let token = JoinToken {
        name: wire.name,
        address: wire.address,
        expires: LogTime::from_millis(wire.expires_ms),
        redeemed,
    };
    Ok((array(at("hash"), &wire.hash)?, token))
}
