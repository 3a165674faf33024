//! Whether ports 80 and 443 of a name's public addresses reach this machine: it asks itself, as an authority would.
//!
//! On port 80 a random token is asked for where http-01 is answered; on port 443 a certificate of the moment, as by
//! tls-alpn-01, so that no certificate need be there yet. Both are answered by the data plane before any rule. What it
//! means is decided by [`report`], which is pure.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use berth_schemas::{
    DomainName, Timestamp,
    reach::{PortCheck, PortOutcome, PortReport},
};
use futures_util::future::join_all;
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

use crate::{
    fault::causes,
    order::challenge_certificate,
    service::{Certs, Inner},
    x509::Leaf,
};

/// For one port of one address.
const LIMIT: Duration = Duration::from_secs(4);
/// Addresses that are asked at most.
const MOST_ADDRESSES: usize = 4;
/// Names that are asked about at once; others wait.
pub(crate) const AT_ONCE: usize = 4;
/// Longest part of a foreign answer that is looked at.
const MOST_ANSWER: usize = 1024;

impl Certs {
    /// Whether ports 80 and 443 of a name reach this machine, within about six seconds.
    pub async fn reach(&self, name: &DomainName) -> PortReport {
        self.0.reach(name).await
    }
}

impl Inner {
    async fn reach(&self, name: &DomainName) -> PortReport {
        let _turn = self.reaching.acquire().await;
        let host = match name.is_wildcard() {
            true => format!("berth-{}.{}", &random()[..8], name.base()),
            false => name.as_str().to_owned(),
        };
        let (addresses, trouble) = match self.dns.addresses(&host).await {
            Ok(addresses) => (addresses, None),
            Err(why) => (Vec::new(), Some(why)),
        };
        let checks = join_all(addresses.iter().take(MOST_ADDRESSES).flat_map(|(ip, allowed)| {
            let ports: &[u16] = if self.config.https { &[80, 443] } else { &[80] };
            let host = host.as_str();
            ports.iter().map(move |port| self.check(host, SocketAddr::new(*ip, *port), *allowed))
        }))
        .await;
        report(&host, self.config.https, checks, trouble, self.now())
    }

    async fn check(&self, host: &str, at: SocketAddr, allowed: bool) -> Check {
        let found = match (allowed, at.port()) {
            (false, _) => Found::NotAllowed,
            (true, 443) => timeout(LIMIT, self.by_tls(host, at)).await.unwrap_or(Found::Timeout),
            (true, _) => timeout(LIMIT, self.by_http(host, at)).await.unwrap_or(Found::Timeout),
        };
        Check { at, found, is_own: is_own(at.ip()) }
    }

    /// Asks for a token over plain HTTP.
    async fn by_http(&self, host: &str, at: SocketAddr) -> Found {
        let (token, answer) = (format!("berth-{}", random()), random());
        let _given = self.shown.answer_http(&token, &answer);
        // One connection to this address and no other, whatever the name may say in a moment.
        let client = reqwest::Client::builder()
            .user_agent(concat!("berth/", env!("CARGO_PKG_VERSION")))
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .resolve(host, at)
            .build();
        let client = match client {
            Ok(client) => client,
            Err(error) => return Found::Broken(causes(&error)),
        };
        let url = format!("http://{host}{}{token}", berth_proxy::CHALLENGE_PATH);
        let mut said = match client.get(url).send().await {
            Ok(said) => said,
            Err(error) => return failed(&error),
        };
        let mut text = Vec::new();
        while let Ok(Some(chunk)) = said.chunk().await {
            text.extend_from_slice(&chunk);
            if text.len() > MOST_ANSWER {
                break;
            }
        }
        if said.status() == http::StatusCode::OK && text == answer.as_bytes() {
            return Found::Reached;
        }
        let header = |name| said.headers().get(name).and_then(|v| v.to_str().ok());
        let mut words = format!("it answered {}", said.status().as_u16());
        if let Some(to) = header(http::header::LOCATION) {
            words = format!("{words}, to {}", cut(to));
        }
        if let Some(server) = header(http::header::SERVER) {
            words = format!("{words} and calls itself {}", cut(server));
        }
        Found::Other(words)
    }

    /// Asks for a certificate of the moment over TLS.
    async fn by_tls(&self, host: &str, at: SocketAddr) -> Found {
        let socket = match TcpStream::connect(at).await {
            Ok(socket) => socket,
            Err(error) => return refused(&error),
        };
        let Ok(server) = ServerName::try_from(host.to_owned()) else {
            return Found::Broken("it is no host that TLS knows".into());
        };
        let made = hex::decode(random())
            .map_err(|e| e.to_string())
            .and_then(|digest| challenge_certificate(host, &digest).map_err(|e| e.to_string()));
        let given = match made {
            Ok((chain, key)) => self.shown.probe_tls(host, chain, key),
            Err(error) => return Found::Broken(error),
        };
        let client = match any_server() {
            Ok(client) => TlsConnector::from(Arc::new(client)),
            Err(error) => return Found::Broken(error.to_string()),
        };
        match client.connect(server, socket).await {
            Ok(stream) => {
                let shown = stream.get_ref().1.peer_certificates().and_then(|all| all.first());
                match shown {
                    Some(shown) if given.is(shown) => Found::Reached,
                    Some(shown) => Found::Other(format!("it showed {}", described(shown))),
                    None => Found::Other("it showed no certificate".into()),
                }
            }
            Err(error) => Found::Other(cut(&error.to_string())),
        }
    }
}

/// What one port of one address did.
#[derive(Debug, Clone, PartialEq)]
enum Found {
    Reached,
    Refused,
    Timeout,
    Unreachable(String),
    Other(String),
    /// The question could not be asked.
    Broken(String),
    NotAllowed,
}

#[derive(Debug, Clone, PartialEq)]
struct Check {
    at: SocketAddr,
    found: Found,
    /// The address is one of this machine's own interfaces.
    is_own: bool,
}

/// What it means.
fn report(
    host: &str,
    https: bool,
    checks: Vec<Check>,
    trouble: Option<String>,
    now: Timestamp,
) -> PortReport {
    let reaches = |port: u16| {
        let mut all = checks.iter().filter(|c| c.at.port() == port).peekable();
        all.peek().is_some() && all.all(|c| c.found == Found::Reached)
    };
    PortReport {
        host: host.to_owned(),
        http: reaches(80),
        https: https.then(|| reaches(443)),
        fix: fix(&checks),
        note: note(&checks).to_owned(),
        trouble: trouble.map(Into::into),
        checks: checks.iter().map(shown).collect(),
        at: now,
    }
}

fn shown(check: &Check) -> PortCheck {
    let (outcome, detail) = match &check.found {
        Found::Reached => (PortOutcome::Reached, "this Berth answered".to_owned()),
        Found::Refused => (PortOutcome::Refused, "the connection was refused".to_owned()),
        Found::Timeout => (PortOutcome::Timeout, format!("nothing answered within {} s", LIMIT.as_secs())),
        Found::Unreachable(why) => (PortOutcome::Unreachable, why.clone()),
        Found::Other(what) => (PortOutcome::OtherServer, format!("another server answered: {what}")),
        Found::Broken(why) => (PortOutcome::Unreachable, format!("it could not be asked: {why}")),
        Found::NotAllowed => {
            (PortOutcome::NotAllowed, "the address is none on the internet, so it was not asked".to_owned())
        }
    };
    PortCheck { address: check.at.ip().to_string(), port: check.at.port(), outcome, detail: detail.into() }
}

/// What to do about the first that does not reach this machine.
fn fix(checks: &[Check]) -> Option<String> {
    let check = checks.iter().find(|c| c.found != Found::Reached)?;
    let (ip, port) = (check.at.ip(), check.at.port());
    let record = if ip.is_ipv6() { "AAAA" } else { "A" };
    Some(match &check.found {
        Found::Reached => return None,
        Found::Refused => format!(
            "Nothing listens at {ip} port {port}: have Berth listen there (http_addr, https_addr in the daemon's configuration), or lead that port to it."
        ),
        Found::Timeout => format!(
            "Open port {port} for {ip} in the firewall (of this machine and of its hoster), or lead it through the router to this machine."
        ),
        Found::Unreachable(_) | Found::Broken(_) if ip.is_ipv6() => {
            format!("This machine has no way to {ip}: give it IPv6, or remove the AAAA record.")
        }
        Found::Unreachable(_) | Found::Broken(_) => {
            format!("See that this machine reaches {ip}, or correct the A record.")
        }
        Found::Other(_) if port == 443 => format!(
            "Something else ends TLS at {ip} port 443: another web server, or a proxy or CDN in front. Stop it, pass TLS through, or correct the {record} record."
        ),
        Found::Other(_) => format!(
            "Something else answers at {ip} port {port}: stop that web server, have it pass /.well-known/acme-challenge/ on to Berth, or correct the {record} record."
        ),
        Found::NotAllowed => {
            format!("Have the {record} record name this machine's public address instead of {ip}.")
        }
    })
}

fn note(checks: &[Check]) -> &'static str {
    let reached = || checks.iter().filter(|c| c.found == Found::Reached);
    if checks.iter().any(|c| !matches!(c.found, Found::Reached | Found::NotAllowed)) {
        "Asked from this machine itself. Behind a router that does not lead its own public address back inside (no hairpin NAT) this fails though the world gets through: open the address from another network, such as a phone's, before you change anything."
    } else if reached().any(|c| c.is_own) {
        "Asked from this machine itself, at an address that is its own: a firewall in front of it, as of the hoster, was not passed. If authorities report a timeout, look there."
    } else {
        "Asked from this machine itself, by way of the address that the world uses."
    }
}

/// Whether an address is one of this machine's interfaces: nothing else can be bound.
fn is_own(ip: IpAddr) -> bool {
    std::net::UdpSocket::bind((ip, 0)).is_ok()
}

fn failed(error: &reqwest::Error) -> Found {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(at) = cause {
        if let Some(error) = at.downcast_ref::<io::Error>() {
            return refused(error);
        }
        cause = at.source();
    }
    match error.is_connect() {
        true => Found::Unreachable(cut(&causes(error))),
        false => Found::Other(cut(&causes(error))),
    }
}

fn refused(error: &io::Error) -> Found {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Found::Refused,
        io::ErrorKind::TimedOut => Found::Timeout,
        io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof => {
            Found::Other("it closed the connection".into())
        }
        _ => Found::Unreachable(error.to_string()),
    }
}

/// Foreign words in a bounded length.
fn cut(text: &str) -> String {
    text.chars().take(200).collect()
}

fn described(shown: &CertificateDer<'_>) -> String {
    match Leaf::of(shown) {
        Ok(leaf) => {
            let names = leaf.names.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
            cut(&format!("a certificate for {names}, issued by {}", leaf.issuer))
        }
        Err(_) => "a certificate that cannot be read".to_owned(),
    }
}

/// 32 random bytes in hex.
fn random() -> String {
    uuid::Uuid::new_v4().simple().to_string() + &uuid::Uuid::new_v4().simple().to_string()
}

/// A client that takes any certificate, as it is about to be compared, and speaks what authorities speak.
fn any_server() -> Result<ClientConfig, rustls::Error> {
    let crypto = CryptoProvider::get_default().cloned();
    let crypto = crypto.unwrap_or_else(|| Arc::new(rustls::crypto::ring::default_provider()));
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&crypto))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer(crypto)))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"acme-tls/1".to_vec()];
    Ok(config)
}

/// Takes any certificate.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    // A certificate of tls-alpn-01 cannot be parsed by those who check signatures: its extension is critical. It is of
    // this moment and compared as a whole, which is proof enough.
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(at: &str, found: Found, is_own: bool) -> Check {
        Check { at: at.parse().unwrap(), found, is_own }
    }

    #[test]
    fn what_does_not_reach_this_machine_is_named_with_what_to_do() {
        let good = || check("192.0.2.1:80", Found::Reached, true);
        let all = report(
            "a.example",
            true,
            vec![good(), check("192.0.2.1:443", Found::Reached, true)],
            None,
            Timestamp(1),
        );
        assert_eq!((all.http, all.https, all.fix.as_deref()), (true, Some(true), None));
        assert!(all.note.contains("hoster"), "a firewall outside was not passed: {}", all.note);
        for (found, outcome, says) in [
            (Found::Refused, PortOutcome::Refused, "Nothing listens at 192.0.2.1 port 443"),
            (Found::Timeout, PortOutcome::Timeout, "firewall"),
            (Found::Other("it showed nginx".into()), PortOutcome::OtherServer, "CDN"),
            (Found::Unreachable("no route".into()), PortOutcome::Unreachable, "reaches 192.0.2.1"),
            (Found::NotAllowed, PortOutcome::NotAllowed, "public address instead of 192.0.2.1"),
        ] {
            let one = report(
                "a.example",
                true,
                vec![good(), check("192.0.2.1:443", found, false)],
                None,
                Timestamp(1),
            );
            assert_eq!((one.http, one.https, one.checks[1].outcome), (true, Some(false), outcome));
            assert!(one.fix.as_deref().is_some_and(|fix| fix.contains(says)), "{one:?}");
            assert_eq!(one.note.contains("hairpin"), outcome != PortOutcome::NotAllowed, "{one:?}");
        }
        let v6 = report(
            "a.example",
            true,
            vec![check("[2001:db8::1]:80", Found::Unreachable("no route".into()), false)],
            None,
            Timestamp(1),
        );
        assert!(v6.fix.unwrap().contains("AAAA"));
        let none = report("a.example", false, vec![], Some("there is no such name".into()), Timestamp(1));
        assert_eq!((none.http, none.https), (false, None));
    }
}
