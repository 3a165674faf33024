//! HTTP/1.1 as a load needs it: ready-made requests over a connection that stays open, so that no client's own work is in
//! the figures.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, bail};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// Longest answer that is read, in bytes.
pub const MOST: usize = 512 << 10;

/// A connection to an address, opened when it is needed.
#[derive(Debug)]
pub struct Connection {
    addr: SocketAddr,
    stream: Option<TcpStream>,
    buffer: Vec<u8>,
}

/// An answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply<'a> {
    /// Status.
    pub status: u16,
    /// Body.
    pub body: &'a [u8],
}

impl Connection {
    /// To this address.
    #[must_use]
    pub fn new(addr: SocketAddr) -> Self {
        Self { addr, stream: None, buffer: vec![0; MOST] }
    }

    /// Sends a request and reads its answer, which has to name its length.
    ///
    /// # Errors
    /// When the connection fails or the answer cannot be read.
    pub async fn exchange(&mut self, request: &[u8]) -> Result<Reply<'_>> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(self.addr).await?;
                stream.set_nodelay(true)?;
                stream
            }
        };
        stream.write_all(request).await?;
        let (mut have, mut head) = (0, None);
        loop {
            let n = stream.read(self.buffer.get_mut(have..).context("an answer is too long")?).await?;
            if n == 0 {
                bail!("the connection was closed within an answer");
            }
            have += n;
            if head.is_none() {
                head = read_head(self.buffer.get(..have).unwrap_or_default())?;
            }
            if let Some(Head { status, body, closes }) = head.clone().filter(|head| have >= head.body.end) {
                if !closes {
                    self.stream = Some(stream);
                }
                return Ok(Reply { status, body: self.buffer.get(body).unwrap_or_default() });
            }
        }
    }
}

#[derive(Debug, Clone)]
struct Head {
    status: u16,
    body: std::ops::Range<usize>,
    closes: bool,
}

/// The head of an answer, once all of it is there.
fn read_head(seen: &[u8]) -> Result<Option<Head>> {
    let Some(end) = seen.windows(4).position(|w| w == b"\r\n\r\n") else { return Ok(None) };
    let text = String::from_utf8_lossy(&seen[..end]).to_ascii_lowercase();
    let header =
        |name: &str| text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    let status = text.split(' ').nth(1).and_then(|s| s.parse().ok()).context("a status")?;
    let length: usize = header("content-length").context("a content-length")?.parse()?;
    let begin = end + 4;
    Ok(Some(Head { status, body: begin..begin + length, closes: header("connection") == Some("close") }))
}

/// The time below which a share of sorted times lies.
#[must_use]
pub fn quantile(times: &[Duration], share: f64) -> Duration {
    let at = (times.len() as f64 * share) as usize;
    times.get(at.min(times.len().saturating_sub(1))).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_in_pieces_is_read_whole_and_a_closed_connection_is_opened_anew() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut connection = Connection::new(listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            for (head, more) in [("", "one"), ("connection: close\r\n", "two"), ("", "six")] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut asked = [0; 4];
                stream.read_exact(&mut asked).await.unwrap();
                let head = format!("HTTP/1.1 201 Created\r\nContent-Length: 6\r\n{head}\r\n{more}");
                stream.write_all(head.as_bytes()).await.unwrap();
                tokio::time::sleep(Duration::from_millis(20)).await;
                stream.write_all(b"end").await.unwrap();
                if more == "one" {
                    // The same connection once more.
                    stream.read_exact(&mut asked).await.unwrap();
                    stream
                        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                        .await
                        .unwrap();
                }
            }
        });
        assert_eq!(connection.exchange(b"ask1").await.unwrap(), Reply { status: 201, body: b"oneend" });
        assert_eq!(connection.exchange(b"ask2").await.unwrap(), Reply { status: 200, body: b"" });
        assert_eq!(connection.exchange(b"ask3").await.unwrap(), Reply { status: 201, body: b"twoend" });
        assert_eq!(connection.exchange(b"ask4").await.unwrap().body, b"sixend");
        server.await.unwrap();
    }

    #[test]
    fn a_share_of_times_lies_below() {
        let times: Vec<Duration> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!(quantile(&times, 0.5), Duration::from_millis(51));
        assert_eq!(quantile(&times, 1.0), Duration::from_millis(100));
        assert_eq!(quantile(&[], 0.5), Duration::ZERO);
    }
}
