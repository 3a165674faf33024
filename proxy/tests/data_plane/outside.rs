//! TLS as strangers see it: with OpenSSL and curl, and with raw hellos of versions that those no longer speak.
//! The programs are not ours to install: without them the test says that it was skipped.

use std::process::{Output, Stdio};

use berth_proxy::{CertificateTable, Destination, ProxyConfig, RouteTable};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    support::{App, Proxy, release},
    tls::{Made, certificate},
};

/// Runs a program by argv; `None` when it is not installed.
async fn run(program: &'static str, args: Vec<String>, input: &'static str) -> Option<Output> {
    let run = move || {
        #[expect(clippy::disallowed_methods, reason = "a test's client, by argv")]
        let mut command = std::process::Command::new(program);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().ok()?;
        let mut stdin = child.stdin.take().expect("piped");
        // A client that has gone reads nothing.
        let _ = std::io::Write::write_all(&mut stdin, input.as_bytes());
        if !input.is_empty() {
            std::thread::sleep(std::time::Duration::from_millis(500));
        }
        drop(stdin);
        child.wait_with_output().ok()
    };
    tokio::task::spawn_blocking(run).await.expect("no panic")
}

/// What `openssl s_client` says to a name.
async fn s_client(proxy: &Proxy, name: &str, more: &[&str], input: &'static str) -> Option<(bool, String)> {
    let at = proxy.https.to_string();
    let args = [&["s_client", "-connect", &at, "-servername", name], more].concat();
    let output = run("openssl", args.into_iter().map(str::to_owned).collect(), input).await?;
    let text = [output.stdout, output.stderr].concat();
    Some((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
}

/// A ClientHello of an old version, and the alert that answers it: level and description.
async fn alert(proxy: &Proxy, record: [u8; 2], version: [u8; 2], name: Option<&str>) -> Option<[u8; 2]> {
    let mut extensions = Vec::new();
    if let Some(name) = name {
        let n = name.len() as u16;
        for part in [0, n + 5, n + 3] {
            extensions.extend(u16::to_be_bytes(part));
        }
        extensions.push(0);
        extensions.extend(n.to_be_bytes());
        extensions.extend(name.as_bytes());
    }
    // Groups and signatures that everybody has, so that only the version is at fault.
    extensions.extend([0, 10, 0, 4, 0, 2, 0, 23, 0, 11, 0, 2, 1, 0, 0, 13, 0, 6, 0, 4, 4, 3, 2, 3]);
    let mut body = version.to_vec();
    body.extend([7; 32]);
    body.extend([0, 0, 6, 0xc0, 0x2b, 0xc0, 0x09, 0xc0, 0x0a, 1, 0]);
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    let mut hello = vec![22, record[0], record[1]];
    hello.extend((body.len() as u16 + 4).to_be_bytes());
    hello.push(1);
    hello.extend(&(body.len() as u32).to_be_bytes()[1..]);
    hello.extend(body);
    let mut socket = TcpStream::connect(proxy.https).await.expect("connects");
    socket.write_all(&hello).await.expect("writes");
    let mut answer = [0; 7];
    socket.read_exact(&mut answer).await.ok()?;
    (answer[0] == 21).then_some([answer[5], answer[6]])
}

async fn world() -> (Proxy, Made) {
    let app = App::start("web").await;
    let (made, other) = (certificate("web.test"), certificate("other.test"));
    // A renegotiation gets no answer, and ends with the patience for idle connections.
    let patience = std::time::Duration::from_secs(2);
    let proxy = Proxy::with(ProxyConfig { idle_timeout: patience, ..ProxyConfig::default() });
    let table = CertificateTable::builder()
        .pem("web.test", &made.chain, &made.key)
        .and_then(|table| table.pem("other.test", &other.chain, &other.key));
    proxy.handle.set_certificates(table.expect("good certificates").build());
    let routes = RouteTable::builder().host("web.test").to(Destination::Release(release(1, &[app.addr])));
    proxy.handle.set_routes(routes.build().expect("one route"));
    // Lives as long as the runtime of its test.
    std::mem::forget(app);
    (proxy, made)
}

#[tokio::test]
async fn old_versions_and_unknown_names_are_refused_by_the_alert_that_is_meant_for_it() {
    let (proxy, _) = world().await;
    const PROTOCOL_VERSION: Option<[u8; 2]> = Some([2, 70]);
    const UNRECOGNIZED_NAME: Option<[u8; 2]> = Some([2, 112]);
    for (what, version) in [("SSL 3", [3, 0]), ("TLS 1.0", [3, 1]), ("TLS 1.1", [3, 2])] {
        let answer = alert(&proxy, [3, 1], version, Some("web.test")).await;
        assert_eq!(answer, PROTOCOL_VERSION, "{what}");
    }
    for name in [Some("unknown.test"), Some("a.web.test"), Some("test"), None] {
        assert_eq!(alert(&proxy, [3, 1], [3, 3], name).await, UNRECOGNIZED_NAME, "{name:?}");
    }
    assert_eq!(alert(&proxy, [3, 1], [3, 3], Some("WEB.test")).await, None, "a hello back, not an alert");
}

#[tokio::test]
async fn openssl_finds_modern_versions_sane_ciphers_and_nothing_else() {
    let (proxy, made) = world().await;
    let Some((_, text)) = s_client(&proxy, "web.test", &["-tls1_3", "-alpn", "h2,http/1.1"], "").await else {
        return println!("skipped: openssl is not installed");
    };
    assert!(text.contains("TLSv1.3") && text.contains("ALPN protocol: h2"), "{text}");
    assert!(text.contains("CN = rcgen self signed cert") || text.contains("BEGIN CERTIFICATE"), "{text}");
    let shown: String = text
        .lines()
        .skip_while(|l| !l.contains("BEGIN CERT"))
        .take_while(|l| !l.contains("END CERT"))
        .collect();
    let sent: String = made.chain.lines().take_while(|l| !l.contains("END CERT")).collect();
    assert_eq!(shown, sent, "its own certificate");
    assert!(text.contains("Compression: NONE") && text.contains("Early data was not sent"), "{text}");

    let (ok, text) =
        s_client(&proxy, "web.test", &["-tls1_2", "-alpn", "http/1.1"], "").await.expect("installed");
    assert!(ok && text.contains("TLSv1.2") && text.contains("ALPN protocol: http/1.1"), "{text}");
    assert!(
        text.contains("Secure Renegotiation IS supported") && text.contains("Compression: NONE"),
        "{text}"
    );
    assert!(text.contains("Extended master secret: yes"), "{text}");
    for cipher in
        ["ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-CHACHA20-POLY1305"]
    {
        let (ok, text) =
            s_client(&proxy, "web.test", &["-tls1_2", "-cipher", cipher], "").await.expect("installed");
        assert!(ok && text.contains(cipher), "{cipher}: {text}");
    }
    for cipher in [
        "ECDHE-ECDSA-AES128-SHA256:@SECLEVEL=0",
        "ECDHE-ECDSA-AES256-SHA:@SECLEVEL=0",
        "AES128-GCM-SHA256:AES128-SHA:@SECLEVEL=0",
        "DHE-RSA-AES128-GCM-SHA256:@SECLEVEL=0",
        "aNULL:eNULL:@SECLEVEL=0",
        "PSK:@SECLEVEL=0",
    ] {
        let (ok, text) =
            s_client(&proxy, "web.test", &["-tls1_2", "-cipher", cipher], "").await.expect("installed");
        assert!(!ok && !text.contains("BEGIN CERTIFICATE"), "{cipher}: {text}");
    }
    for old in ["-tls1", "-tls1_1"] {
        let more = [old, "-cipher", "ALL:@SECLEVEL=0"];
        let (ok, text) = s_client(&proxy, "web.test", &more, "").await.expect("installed");
        // By which alert depends on what else such an old hello lacks.
        assert!(
            !ok && text.contains("SSL alert number") && !text.contains("BEGIN CERTIFICATE"),
            "{old}: {text}"
        );
    }
    let (ok, text) = s_client(&proxy, "web.test", &["-tls1_2"], "R\n").await.expect("installed");
    assert!(!ok && text.contains("RENEGOTIATING"), "a renegotiation is refused: {text}");
    for version in ["-tls1_2", "-tls1_3"] {
        let (ok, text) = s_client(&proxy, "unknown.test", &[version], "").await.expect("installed");
        assert!(!ok && text.contains("unrecognized name") && !text.contains("BEGIN CERTIFICATE"), "{text}");
        let (ok, _) = s_client(&proxy, "other.test", &[version], "").await.expect("installed");
        assert!(ok);
    }
    // A ticket of one name opens no other, and one of its own does.
    let directory = tempfile::tempdir().expect("a directory");
    let ticket = directory.path().join("ticket").display().to_string();
    let out = ["-tls1_2", "-sess_out", &ticket];
    assert!(s_client(&proxy, "web.test", &out, "").await.expect("installed").0);
    let again = |name| {
        let (ticket, proxy) = (&ticket, &proxy);
        async move { s_client(proxy, name, &["-tls1_2", "-sess_in", ticket], "").await.expect("installed").1 }
    };
    assert!(again("web.test").await.contains("Reused, TLSv1.2"));
    assert!(!again("other.test").await.contains("Reused, TLSv1.2"));
}

#[tokio::test]
async fn curl_gets_what_a_visitor_sees() {
    let (proxy, made) = world().await;
    let directory = tempfile::tempdir().expect("a directory");
    let roots = directory.path().join("roots.pem");
    std::fs::write(&roots, &made.chain).expect("written");
    let curl = |name: &str, more: &[&str]| {
        let port = proxy.https.port();
        let to = format!("{name}:{port}:127.0.0.1");
        let url = format!("https://{name}:{port}/");
        let roots = roots.display().to_string();
        let args = [
            "-sS",
            "--noproxy",
            "*",
            "--resolve",
            &to,
            "--cacert",
            &roots,
            "-w",
            " %{http_version} %{http_code}",
            &url,
        ];
        let args = args.iter().chain(more).map(|arg| (*arg).to_owned()).collect();
        run("curl", args, "")
    };
    let Some(output) = curl("web.test", &[]).await else { return println!("skipped: curl is not installed") };
    assert_eq!(String::from_utf8_lossy(&output.stdout), "web 2 200", "{output:?}");
    let output = curl("web.test", &["--http1.1", "--tls-max", "1.2"]).await.expect("installed");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "web 1.1 200");
    let output = curl("unknown.test", &[]).await.expect("installed");
    assert!(
        !output.status.success() && String::from_utf8_lossy(&output.stderr).contains("unrecognized name"),
        "{output:?}"
    );
}
