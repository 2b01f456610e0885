//! etcd's side: durable puts over its gRPC, each client with a connection of its own.

use anyhow::{Context, Result};
use bytes::Bytes;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

use super::rates::Writer;
use crate::etcd::Cluster;

/// `etcdserverpb.PutRequest`, as far as it is used.
#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

/// `etcdserverpb.PutResponse`; what is in it is skipped.
#[derive(Clone, PartialEq, prost::Message)]
struct PutResponse {}

/// One client that puts one value after the other, each under a new key.
pub(super) struct Putting {
    client: Grpc<Channel>,
    prefix: String,
    next: u64,
    bytes: usize,
}

impl Putting {
    /// A connected client of one node, counting from 0.
    pub(super) async fn start(
        cluster: &Cluster,
        node: usize,
        prefix: String,
        bytes: usize,
    ) -> Result<Self> {
        let address = cluster.addresses().swap_remove(node);
        let channel = Endpoint::from_shared(format!("http://{address}"))?.connect().await?;
        Ok(Self { client: Grpc::new(channel), prefix, next: 0, bytes })
    }
}

impl Writer for Putting {
    async fn write(&mut self) -> Result<()> {
        let mut value = vec![0; self.bytes];
        fastrand::fill(&mut value);
        let key = format!("{}-{:012}", self.prefix, self.next);
        self.next += 1;
        let request = PutRequest { key: key.into(), value: value.into() };
        self.client.ready().await.context("etcd is not ready")?;
        let path = PathAndQuery::from_static("/etcdserverpb.KV/Put");
        let codec: ProstCodec<PutRequest, PutResponse> = ProstCodec::default();
        self.client.unary(tonic::Request::new(request), path, codec).await?;
        Ok(())
    }
}
