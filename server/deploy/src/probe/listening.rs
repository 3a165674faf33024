//! The sockets that listen inside a container, read from `/proc/<pid>/net/tcp{,6}` of its main process.
//!
//! That file shows the process's network namespace, which is the container's. It tells an app that listens on
//! another port, or on the loopback address only, from one that does not listen at all.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Docker's embedded DNS server, in every container of a private network.
const EMBEDDED_DNS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
/// State of a listening socket in these files.
const LISTEN: &str = "0A";

/// A listening TCP socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Listening {
    /// Address it is bound to.
    pub addr: IpAddr,
    /// Its port.
    pub port: u16,
}

impl Listening {
    /// Whether only processes of the same container reach it.
    pub fn is_loopback_only(&self) -> bool {
        match self.addr {
            IpAddr::V4(addr) => addr.is_loopback(),
            IpAddr::V6(addr) => addr.to_ipv4_mapped().map_or(addr.is_loopback(), |v4| v4.is_loopback()),
        }
    }
}

impl fmt::Display for Listening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        std::net::SocketAddr::new(self.addr, self.port).fmt(f)
    }
}

/// The listening sockets of the network namespace of process `pid`, by port. Errors when there is no such process.
pub async fn listening_ports(pid: u32) -> io::Result<Vec<Listening>> {
    let v4 = tokio::fs::read_to_string(format!("/proc/{pid}/net/tcp")).await?;
    // Absent where the kernel has no IPv6.
    let v6 = tokio::fs::read_to_string(format!("/proc/{pid}/net/tcp6")).await.unwrap_or_default();
    let mut found: Vec<_> = parse(&v4).chain(parse(&v6)).collect();
    found.sort_by_key(|l| (l.port, l.addr));
    found.dedup();
    Ok(found)
}

/// The listening sockets in the text of such a file, without Docker's own.
fn parse(text: &str) -> impl Iterator<Item = Listening> + '_ {
    text.lines()
        .skip(1)
        .filter_map(|line| {
            let mut fields = line.split_ascii_whitespace().skip(1);
            let local = fields.next()?;
            let state = fields.nth(1)?;
            if state != LISTEN { None } else { socket(local) }
        })
        .filter(|listening| listening.addr != IpAddr::V4(EMBEDDED_DNS))
}

/// `0100007F:0BB8` is 127.0.0.1:3000: the address as words in the machine's byte order, the port as a number.
fn socket(text: &str) -> Option<Listening> {
    let (addr, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| Some(u32::from_str_radix(addr.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    let addr = match addr.len() {
        8 => IpAddr::V4(word(0)?.into()),
        32 => {
            let mut bytes = [0; 16];
            for (i, chunk) in bytes.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(i * 8)?);
            }
            IpAddr::V6(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    Some(Listening { addr, port })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEAD: &str =
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode";

    #[cfg(target_endian = "little")]
    #[test]
    fn listeners_are_found_and_connections_and_dockers_dns_are_not() {
        let text = format!(
            "{HEAD}
   0: 0100007F:0BB8 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 2 1 0 100 0 0 10 0
   2: 0B00007F:A0F1 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 3 1 0 100 0 0 10 0
   3: 0100007F:0BB8 0100007F:C000 01 00000000:00000000 00:00000000 00000000     0        0 4 1 0 20 4 30 10 -1
"
        );
        let found: Vec<String> = parse(&text).map(|l| l.to_string()).collect();
        assert_eq!(found, ["127.0.0.1:3000", "0.0.0.0:8080"]);
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn version_6_addresses_are_read_word_by_word() {
        let any = socket("00000000000000000000000000000000:0050").unwrap();
        assert_eq!((any.to_string().as_str(), any.is_loopback_only()), ("[::]:80", false));
        let loopback = socket("00000000000000000000000001000000:0050").unwrap();
        assert_eq!((loopback.to_string().as_str(), loopback.is_loopback_only()), ("[::1]:80", true));
        let mapped = socket("0000000000000000FFFF00000100007F:0050").unwrap();
        assert!(mapped.is_loopback_only(), "{mapped}");
    }

    proptest! {
        #[test]
        fn no_text_is_too_odd(text in "\\PC*\n\\PC*") {
            let _ = parse(&text).count();
            let _ = socket(&text);
        }
    }

    #[tokio::test]
    async fn a_listener_of_this_process_is_found() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let found = listening_ports(std::process::id()).await.unwrap();
        let ours = found.iter().find(|l| l.port == port).unwrap();
        assert!(ours.is_loopback_only());
    }
}
