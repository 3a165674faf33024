//! Pebble, Let's Encrypt's own test server, with a DNS server that says what a test wants.

#![allow(unreachable_pub, reason = "a part of a test")]
#![allow(clippy::disallowed_methods, reason = "tests start the authority that they order from")]

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::process::{Child, Command};

/// How a Pebble is to be.
#[derive(Default)]
pub struct Options<'a> {
    /// Where it looks for HTTP-01.
    pub http_port: u16,
    /// Where it looks for TLS-ALPN-01.
    pub tls_port: u16,
    /// Seconds that its certificates are valid; 0 for its default, five years.
    pub validity_s: u64,
    /// It wants accounts that it knows: key identifier and key.
    pub eab: Option<(&'a str, &'a str)>,
    /// A name server to ask instead of one of its own.
    pub dns: Option<&'a str>,
    /// Most seconds before it looks at a challenge.
    pub sleep_s: u32,
    /// Per cent of good nonces that it refuses.
    pub nonce_reject: u32,
}

/// A running Pebble.
pub struct Pebble {
    _pebble: Child,
    _dns: Child,
    dir: tempfile::TempDir,
    dns_management: String,
    management: String,
    /// Its directory.
    pub directory: String,
    http: reqwest::Client,
}

/// A port that nobody listens on.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Whether the programs are there. Without them a test says so and returns, unless `BERTH_TEST_REQUIRE_PEBBLE` is set.
pub fn pebble_or_skip() -> bool {
    let found = |name: &str| {
        std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
            .any(|dir| dir.join(name).is_file())
    };
    let there = found("pebble") && found("pebble-challtestsrv");
    assert!(
        there || std::env::var_os("BERTH_TEST_REQUIRE_PEBBLE").is_none(),
        "pebble is required, and not there"
    );
    if !there {
        println!("skipped: pebble and pebble-challtestsrv are not installed (Debian package pebble)");
    }
    there
}

impl Pebble {
    pub async fn start(options: &Options<'_>) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        own_certificate(dir.path());
        let [listen, management, dns, dns_management] =
            [(); 4].map(|()| format!("127.0.0.1:{}", free_port()));
        let mut config = json!({
            "listenAddress": listen,
            "managementListenAddress": management,
            "certificate": dir.path().join("cert.pem"),
            "privateKey": dir.path().join("key.pem"),
            "httpPort": options.http_port,
            "tlsPort": options.tls_port,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": options.eab.is_some(),
        });
        if options.validity_s > 0 {
            config["certificateValidityPeriod"] = json!(options.validity_s);
        }
        if let Some((kid, key)) = options.eab {
            config["externalAccountMACKeys"] = json!({ kid: key });
        }
        let file = dir.path().join("pebble.json");
        std::fs::write(&file, json!({ "pebble": config }).to_string()).unwrap();
        let log = |name: &str| std::fs::File::create(dir.path().join(name)).unwrap();
        let dns_child = Command::new("pebble-challtestsrv")
            .args(["-dns01", &dns, "-management", &dns_management, "-defaultIPv6", ""])
            .args(["-http01", "", "-https01", "", "-tlsalpn01", ""])
            .stdout(log("dns.log"))
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut pebble = Command::new("pebble");
        pebble.arg("-config").arg(&file).args(["-dnsserver", options.dns.unwrap_or(&dns)]);
        pebble.env("PEBBLE_WFE_NONCEREJECT", options.nonce_reject.to_string());
        match options.sleep_s {
            0 => pebble.env("PEBBLE_VA_NOSLEEP", "1"),
            s => pebble.env("PEBBLE_VA_SLEEPTIME", s.to_string()),
        };
        let out = log("pebble.log");
        let child = pebble.stderr(out.try_clone().unwrap()).stdout(out).kill_on_drop(true).spawn().unwrap();
        let root = std::fs::read(dir.path().join("ca.pem")).unwrap();
        let http = reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([reqwest::Certificate::from_pem(&root).unwrap()])
            .build()
            .unwrap();
        let started = Self {
            _pebble: child,
            _dns: dns_child,
            dir,
            dns_management: format!("http://{dns_management}"),
            management: format!("https://{management}"),
            directory: format!("https://{listen}/dir"),
            http,
        };
        let deadline = Instant::now() + Duration::from_secs(30);
        while started.http.get(&started.directory).send().await.is_err() {
            assert!(Instant::now() < deadline, "pebble is not ready: {}", started.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        started
    }

    /// The root that its HTTPS is signed by.
    pub fn root(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// Chain and key by which it is known, as files.
    pub fn identity(&self) -> (PathBuf, PathBuf) {
        (self.dir.path().join("cert.pem"), self.dir.path().join("key.pem"))
    }

    /// Its directory, as it tells it.
    pub async fn directory_object(&self) -> Value {
        let answer = self.http.get(&self.directory).send().await.unwrap();
        serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap()
    }

    /// What it said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("pebble.log")).unwrap_or_default()
    }

    /// Makes a name lead to an address, for Pebble alone.
    pub async fn point(&self, host: &str, address: &str) {
        self.dns("add-a", json!({ "host": format!("{host}."), "addresses": [address] })).await;
    }

    /// Makes a name lead where all do again.
    pub async fn unpoint(&self, host: &str) {
        self.dns("clear-a", json!({ "host": format!("{host}.") })).await;
    }

    async fn dns(&self, what: &str, body: Value) {
        let answer =
            self.http.post(format!("{}/{what}", self.dns_management)).json(&body).send().await.unwrap();
        assert!(answer.status().is_success(), "{what}: {}", answer.status());
    }

    /// The root that its certificates are signed by.
    pub async fn issuer(&self) -> String {
        self.http.get(format!("{}/roots/0", self.management)).send().await.unwrap().text().await.unwrap()
    }
}

/// An authority for Pebble's own HTTPS, and its certificate.
fn own_certificate(dir: &Path) {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    std::fs::write(dir.join("ca.pem"), ca.self_signed(&ca_key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate().unwrap();
    let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
    let leaf = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
    std::fs::write(dir.join("cert.pem"), leaf.pem()).unwrap();
    std::fs::write(dir.join("key.pem"), key.serialize_pem()).unwrap();
}
