//! Asks a coordinator's `/metrics`, as Prometheus does.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The page, without its HTTP header.
///
/// # Panics
/// When nobody answers or the answer is not 200.
pub async fn scrape(address: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("the metrics address answers");
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("a request can be sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("the answer is text");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    answer.split_once("\r\n\r\n").map_or("", |(_, body)| body).to_owned()
}
