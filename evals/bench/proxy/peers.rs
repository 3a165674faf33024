//! The proxies and the upstream: configured alike, each on its own ports.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::Stdio,
};

use anyhow::Context as _;
use berth_evals::{process::Program, program::program};
use tempfile::TempDir;

use crate::names;

/// The core that proxies run on, one at a time under load.
const PROXY_CORE: usize = 0;
const UPSTREAM_CORE: usize = 1;

#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    pub(crate) http: SocketAddr,
    pub(crate) https: SocketAddr,
    pub(crate) program: Program,
}

/// The upstream and every proxy that could be started.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) peers: Vec<Peer>,
    pub(crate) certificate_pem: String,
    _upstream: Upstream,
    _files: TempDir,
}

impl World {
    pub(crate) fn start(berth: &Path, caddy: &Path, port: u16) -> anyhow::Result<Self> {
        let files = tempfile::tempdir()?;
        let directory = files.path();
        let key = rcgen::KeyPair::generate()?;
        let names = vec!["bench.localhost".to_owned(), "127.0.0.1".to_owned()];
        let certificate = rcgen::CertificateParams::new(names)?.self_signed(&key)?;
        let certificate_pem = certificate.pem();
        fs::write(directory.join("cert.pem"), &certificate_pem)?;
        fs::write(directory.join("key.pem"), key.serialize_pem())?;
        fs::write(directory.join("both.pem"), format!("{certificate_pem}{}", key.serialize_pem()))?;

        let upstream = upstream(directory, port)?;
        let upstream_addr = upstream.addr;

        let mut peers = Vec::new();
        for (i, name) in ["berth", "nginx", "haproxy", "caddy"].into_iter().enumerate() {
            let (http, https) = (at(port + 1 + 2 * i as u16), at(port + 2 + 2 * i as u16));
            let started =
                start(name, directory, berth, caddy, http, https, upstream_addr).and_then(|mut program| {
                    program.wait_for(http)?;
                    program.wait_for(https)?;
                    Ok(program)
                });
            match started {
                Ok(program) => peers.push(Peer { name, http, https, program }),
                Err(error) => println!("skipped: {name} ({error:#})"),
            }
        }
        Ok(Self { peers, certificate_pem, _upstream: upstream, _files: files })
    }
}

/// What all proxies lead to.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) addr: SocketAddr,
    _program: Program,
}

pub(crate) fn upstream(directory: &Path, port: u16) -> anyhow::Result<Upstream> {
    let addr = at(port);
    let config = write(directory, "upstream.conf", &upstream_config(directory, addr))?;
    let mut program = pinned(UPSTREAM_CORE, Path::new("nginx"), &["-c", &config], &[])?;
    program.wait_for(addr).context("the upstream (nginx)")?;
    Ok(Upstream { addr, _program: program })
}

/// Berth with a certificate per `NAME.crt` in a directory.
pub(crate) fn berth_with_names(
    berth: &Path,
    directory: &Path,
    port: u16,
    upstream: SocketAddr,
) -> anyhow::Result<Peer> {
    let (http, https) = (at(port), at(port + 1));
    let first = |kind: &str| directory.join(format!("n0.bench.localhost.{kind}")).display().to_string();
    let args = [http.to_string(), https.to_string(), upstream.to_string(), first("crt"), first("key")];
    let names = directory.display().to_string();
    let args = [args.each_ref().map(String::as_str).as_slice(), &["1", &names]].concat();
    let mut program = pinned(PROXY_CORE, berth, &args, &[])?;
    program.wait_for(https)?;
    Ok(Peer { name: "berth", http, https, program })
}

/// nginx with a server per name.
pub(crate) fn nginx_with_names(
    directory: &Path,
    names: &[String],
    port: u16,
    upstream: SocketAddr,
) -> anyhow::Result<Peer> {
    let (http, https) = (at(port), at(port + 1));
    let dir = directory.display();
    let servers = names::server_blocks(directory, names, https, NGINX_LOCATION);
    let text = format!(
        "{NGINX_HEAD} pid {dir}/nginx.pid; error_log {dir}/nginx.err;
         events {{ worker_connections 40000; }}
         http {{ access_log off; keepalive_requests 1000000000; keepalive_timeout 3600s;
           server_names_hash_max_size 8192; server_names_hash_bucket_size 128;
           upstream app {{ server {upstream}; keepalive 256; keepalive_requests 1000000000; }}
           {servers} }}"
    );
    let config = write(directory, "nginx.conf", &text)?;
    let mut program = pinned(PROXY_CORE, Path::new("nginx"), &["-c", &config], &[])?;
    program.wait_for(https)?;
    Ok(Peer { name: "nginx", http, https, program })
}

/// Starts a program on one core, silent.
fn pinned(core: usize, path: &Path, args: &[&str], env: &[(&str, &str)]) -> anyhow::Result<Program> {
    let core = core.to_string();
    let mut command = program("taskset");
    command.args(["-c", &core]).arg(path).args(args).envs(env.iter().copied());
    Program::start(command.stdout(Stdio::null()).stderr(Stdio::null()))
}

fn at(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

fn write(directory: &Path, name: &str, text: &str) -> anyhow::Result<String> {
    let path = directory.join(name);
    fs::write(&path, text)?;
    Ok(path.display().to_string())
}

fn start(
    name: &str,
    directory: &Path,
    berth: &Path,
    caddy: &Path,
    http: SocketAddr,
    https: SocketAddr,
    upstream: SocketAddr,
) -> anyhow::Result<Program> {
    let pem = |file: &str| directory.join(file).display().to_string();
    match name {
        "berth" => {
            let addrs = [http, https, upstream].map(|addr| addr.to_string());
            let args = [&addrs[0], &addrs[1], &addrs[2], &pem("cert.pem"), &pem("key.pem"), "1"];
            pinned(PROXY_CORE, berth, &args, &[])
        }
        "nginx" => {
            let config = write(directory, "nginx.conf", &nginx_config(directory, http, https, upstream))?;
            pinned(PROXY_CORE, Path::new("nginx"), &["-c", &config], &[])
        }
        "haproxy" => {
            let config = write(directory, "haproxy.cfg", &haproxy_config(directory, http, https, upstream))?;
            pinned(PROXY_CORE, Path::new("haproxy"), &["-db", "-f", &config], &[])
        }
        _ => {
            let config = write(directory, "caddy.json", &caddy_config(directory, http, https, upstream))?;
            let home = directory.display().to_string();
            let env = [("GOMAXPROCS", "1"), ("HOME", home.as_str()), ("XDG_DATA_HOME", home.as_str())];
            pinned(PROXY_CORE, caddy, &["run", "--config", &config], &env)
        }
    }
}

const NGINX_LOCATION: &str = "location / { proxy_pass http://app; proxy_http_version 1.1;
  proxy_set_header Connection \"\"; proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr;
  proxy_set_header X-Forwarded-Proto $scheme; proxy_set_header X-Request-Id $request_id;
  add_header X-Request-Id $request_id; }";
const NGINX_HEAD: &str = "daemon off; worker_processes 1; worker_rlimit_nofile 40000;";

fn upstream_config(directory: &Path, addr: SocketAddr) -> String {
    let (dir, body) = (directory.display(), "x".repeat(1024));
    format!(
        "{NGINX_HEAD} pid {dir}/upstream.pid; error_log {dir}/upstream.err;
         events {{ worker_connections 20000; }}
         http {{ access_log off; keepalive_requests 1000000000; keepalive_timeout 3600s;
           server {{ listen {addr} backlog=8192; location / {{ return 200 \"{body}\"; }} }} }}"
    )
}

fn nginx_config(directory: &Path, http: SocketAddr, https: SocketAddr, upstream: SocketAddr) -> String {
    let dir = directory.display();
    format!(
        "{NGINX_HEAD} pid {dir}/nginx.pid; error_log {dir}/nginx.err;
         events {{ worker_connections 40000; }}
         http {{ access_log off; keepalive_requests 1000000000; keepalive_timeout 3600s;
           upstream app {{ server {upstream}; keepalive 256; keepalive_requests 1000000000; }}
           server {{ listen {http} backlog=8192; listen {https} ssl backlog=8192;
             ssl_certificate {dir}/cert.pem; ssl_certificate_key {dir}/key.pem;
             {NGINX_LOCATION} }} }}"
    )
}

fn haproxy_config(directory: &Path, http: SocketAddr, https: SocketAddr, upstream: SocketAddr) -> String {
    let dir = directory.display();
    format!(
        "global
  nbthread 1
  maxconn 9700
defaults
  mode http
  timeout client 1h
  timeout server 1h
  timeout connect 3s
  timeout http-keep-alive 1h
  unique-id-format %[uuid()]
  unique-id-header X-Request-Id
frontend in
  bind {http} backlog 8192
  bind {https} ssl crt {dir}/both.pem alpn http/1.1 backlog 8192
  http-request set-header X-Forwarded-For %[src]
  http-request set-header X-Forwarded-Proto https if {{ ssl_fc }}
  http-response set-header X-Request-Id %[unique-id]
  default_backend app
backend app
  http-reuse always
  server app {upstream}
"
    )
}

fn caddy_config(directory: &Path, http: SocketAddr, https: SocketAddr, upstream: SocketAddr) -> String {
    let proxy = serde_json::json!([{ "handle": [{
        "handler": "reverse_proxy",
        "upstreams": [{ "dial": upstream.to_string() }],
        "transport": { "protocol": "http", "keep_alive": { "max_idle_conns_per_host": 256 } },
        "headers": {
            "request": { "set": { "X-Request-Id": ["{http.request.uuid}"] } },
            "response": { "set": { "X-Request-Id": ["{http.request.uuid}"] } }
        }
    }] }]);
    let off = serde_json::json!({ "disable": true });
    serde_json::json!({
        "admin": { "disabled": true },
        "logging": { "logs": { "default": { "level": "ERROR" } } },
        "apps": {
            "http": { "servers": {
                "plain": { "listen": [http.to_string()], "routes": proxy, "automatic_https": off,
                           "idle_timeout": "1h" },
                "tls": { "listen": [https.to_string()], "routes": proxy, "automatic_https": off,
                         "idle_timeout": "1h",
                         "tls_connection_policies": [{ "default_sni": "bench.localhost" }] }
            } },
            "tls": { "certificates": { "load_files": [{
                "certificate": directory.join("cert.pem"), "key": directory.join("key.pem")
            }] } }
        }
    })
    .to_string()
}
