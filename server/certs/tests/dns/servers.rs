//! Real name servers on loopback, with zones and a key of their own: BIND, and Knot where a second address is wanted,
//! since BIND listens at addresses of interfaces only.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// The key that servers know, in base 64.
pub const KEY: &str = "c2VzYW1lLW9wZW4tc2VzYW1lLW9wZW4tc2VzYW1lIQ==";
/// Lets the key change a zone of BIND.
pub const ALLOW: &str = "allow-update { key berth; };";

/// A zone to serve.
pub struct ZoneFile<'a> {
    pub name: &'a str,
    /// Records in the form of zone files; SOA and the NS record of ns1 are added.
    pub records: &'a str,
    /// BIND's rules for the zone.
    pub rules: &'a str,
}

impl ZoneFile<'_> {
    fn text(&self, ip: Ipv4Addr) -> String {
        // A second server of the same zone says itself where the first one is.
        let own = if self.records.contains("ns1 A ") { String::new() } else { format!("ns1 IN A {ip}\n") };
        format!(
            "$TTL 300\n@ IN SOA ns1.{0}. admin.{0}. ( 1 3600 600 86400 60 )\n@ IN NS ns1.{0}.\n{own}{1}\n",
            self.name, self.records
        )
    }
}

/// A running name server.
pub struct NameServer {
    child: Child,
    pub address: SocketAddr,
    dir: tempfile::TempDir,
}

fn is_there(program: &str, package: &str) -> bool {
    let there = std::path::Path::new("/usr/sbin").join(program).exists();
    if !there {
        println!("skipped: {program} (Debian package {package}) is not installed");
    }
    there
}

/// Whether BIND is on this machine; says so if it is not.
pub fn bind_is_there() -> bool {
    is_there("named", "bind9")
}

/// Whether Knot is on this machine; says so if it is not.
pub fn knot_is_there() -> bool {
    is_there("knotd", "knot")
}

/// An address with a port that is free for now.
pub fn free(ip: Ipv4Addr) -> SocketAddr {
    TcpListener::bind((ip, 0)).unwrap().local_addr().unwrap()
}

impl NameServer {
    /// Starts BIND on loopback.
    pub fn bind(zones: &[ZoneFile<'_>]) -> Self {
        Self::bind_at(free(Ipv4Addr::LOCALHOST).port(), zones)
    }

    /// Starts BIND on loopback at this port.
    pub fn bind_at(port: u16, zones: &[ZoneFile<'_>]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().display().to_string();
        let mut config = format!(
            "options {{ directory \"{home}\"; listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }};
               pid-file none; session-keyfile \"{home}/session.key\"; managed-keys-directory \"{home}\";
               recursion no; notify no; dnssec-validation no; }};
             controls {{ }};
             key \"berth\" {{ algorithm hmac-sha256; secret \"{KEY}\"; }};
             key \"stranger\" {{ algorithm hmac-sha256; secret \"{KEY}\"; }};\n"
        );
        for zone in zones {
            let file = format!("{home}/{}.zone", zone.name);
            std::fs::write(&file, zone.text(Ipv4Addr::LOCALHOST)).unwrap();
            let stanza =
                format!("zone \"{}\" {{ type primary; file \"{file}\"; {} }};\n", zone.name, zone.rules);
            config.push_str(&stanza);
        }
        let arguments = ["-g", "-n", "1", "-c"];
        Self::spawn("named", &arguments, &config, " running", (Ipv4Addr::LOCALHOST, port).into(), dir)
    }

    /// Starts Knot at any loopback address, with one zone that the key may change.
    pub fn knot_at(address: SocketAddr, zone: &ZoneFile<'_>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().display();
        let (ip, port) = (address.ip(), address.port());
        let config = format!(
            "server:\n  listen: {ip}@{port}\n  rundir: \"{home}\"\n  udp-workers: 1\n  tcp-workers: 1\n\
             database:\n  storage: \"{home}\"\n\
             log:\n- target: stderr\n  any: info\n\
             key:\n- id: berth\n  algorithm: hmac-sha256\n  secret: {KEY}\n\
             acl:\n- id: change\n  key: berth\n  action: update\n\
             zone:\n- domain: {}\n  storage: \"{home}\"\n  file: zone\n  acl: change\n",
            zone.name
        );
        let std::net::IpAddr::V4(v4) = ip else { panic!("{ip}") };
        std::fs::write(dir.path().join("zone"), zone.text(v4)).unwrap();
        Self::spawn("knotd", &["-c"], &config, "server started", address, dir)
    }

    fn spawn(
        program: &str,
        arguments: &[&str],
        config: &str,
        sign: &str,
        address: SocketAddr,
        dir: tempfile::TempDir,
    ) -> Self {
        let (file, log) = (dir.path().join("config"), dir.path().join("log"));
        std::fs::write(&file, config).unwrap();
        let out = std::fs::File::create(&log).unwrap();
        #[allow(clippy::disallowed_methods, reason = "a test starts the server that it talks to")]
        let child = Command::new(format!("/usr/sbin/{program}"))
            .args(arguments)
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .spawn()
            .unwrap();
        let server = Self { child, address, dir };
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let text = std::fs::read_to_string(server.dir.path().join("log")).unwrap_or_default();
            if text.contains(sign) {
                return server;
            }
            assert!(Instant::now() < deadline, "{program} does not start:\n{text}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What the server says of a text, asked by a program that we did not write.
    pub async fn texts(&self, name: &str) -> Vec<String> {
        let (port, at) = (self.address.port().to_string(), format!("@{}", self.address.ip()));
        #[allow(clippy::disallowed_methods, reason = "a test asks with another program")]
        let output = tokio::process::Command::new("dig")
            .args(["+short", "-p", &port, &at, name, "TXT"])
            .output()
            .await
            .unwrap();
        let lines = String::from_utf8(output.stdout).unwrap();
        let mut texts: Vec<String> = lines.lines().map(str::to_owned).collect();
        texts.sort();
        texts
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
