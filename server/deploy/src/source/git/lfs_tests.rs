use std::sync::Mutex;

use serde_json::{Value, json};
use sha2::Digest as _;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};

use super::super::tests::World;
use super::*;
use crate::source::git::{FetchRequest, Identity, SshIdentity};

/// A request that the server got: method and target, the Authorization header, the body.
type Got = (String, Option<String>, Vec<u8>);

/// A server whose answers a test makes: of what it got, a status, more headers, and a body.
struct Server {
    port: u16,
    got: Arc<Mutex<Vec<Got>>>,
}

impl Server {
    async fn new(
        answer: impl Fn(u16, &str, &[u8]) -> (u16, String, Vec<u8>) + Send + Sync + 'static,
    ) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let got: Arc<Mutex<Vec<Got>>> = Arc::default();
        let (answer, all) = (Arc::new(answer), Arc::clone(&got));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (answer, all) = (Arc::clone(&answer), Arc::clone(&all));
                tokio::spawn(async move {
                    let mut stream = tokio::io::BufReader::new(stream);
                    let mut lines = Vec::new();
                    loop {
                        let mut line = String::new();
                        stream.read_line(&mut line).await.unwrap();
                        if line.trim().is_empty() {
                            break;
                        }
                        lines.push(line.trim().to_owned());
                    }
                    let Some(first) = lines.first() else { return };
                    let asked = first.trim_end_matches(" HTTP/1.1").to_owned();
                    let value = |name: &str| {
                        let mut found = lines.iter().filter_map(|line| line.split_once(": "));
                        found.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, v)| v.to_owned())
                    };
                    let mut body = vec![0; value("content-length").map_or(0, |text| text.parse().unwrap())];
                    stream.read_exact(&mut body).await.unwrap();
                    let (status, headers, text) = answer(port, &asked, &body);
                    all.lock().unwrap().push((asked, value("authorization"), body));
                    let length = text.len();
                    let head = format!(
                        "HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n"
                    );
                    stream.write_all(head.as_bytes()).await.unwrap();
                    stream.write_all(&text).await.unwrap();
                    stream.shutdown().await.unwrap();
                });
            }
        });
        Self { port, got }
    }

    fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap().clone()
    }
}

/// Knows who to be towards one address.
#[derive(Debug)]
struct Known(String);

#[async_trait::async_trait]
impl Identities for Known {
    async fn towards(&self, url: &GitUrl) -> Result<Identity, berth_schemas::Problem> {
        let credential = GitCredential { user: Some("ada".into()), secret: "s3cret".into() };
        let credential = (url.as_str() == self.0).then_some(credential);
        Ok(Identity { credential, ssh: SshIdentity::default() })
    }
}

fn oid(content: &[u8]) -> String {
    hex::encode(sha2::Sha256::digest(content))
}

fn pointer(content: &[u8]) -> String {
    let (oid, size) = (oid(content), content.len());
    format!("version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size}\n")
}

/// A batch's answer that sends clients to `/o/<oid>`.
fn sent_to(port: u16, body: &[u8]) -> Vec<u8> {
    let asked: Value = serde_json::from_slice(body).unwrap();
    let object = |o: &Value| {
        let href = format!("http://127.0.0.1:{port}/o/{}?signature=abc", o["oid"].as_str().unwrap());
        json!({ "oid": o["oid"], "size": o["size"], "actions": { "download": { "href": href } } })
    };
    let objects: Vec<Value> = asked["objects"].as_array().unwrap().iter().map(object).collect();
    json!({ "transfer": "basic", "objects": objects }).to_string().into_bytes()
}

impl World {
    /// A repository with pointers to these at these paths, whose files are at this server.
    async fn with_lfs(server: &Server, files: &[(&str, &[u8])]) -> Self {
        let world = Self::new().await;
        std::fs::write(world.repo.join(".gitattributes"), "*.bin filter=lfs diff=lfs merge=lfs -text\n")
            .unwrap();
        for (path, content) in files {
            let path = world.repo.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, pointer(content)).unwrap();
        }
        let url = format!("[lfs]\n\turl = http://127.0.0.1:{}/lfs\n", server.port);
        world.commit(".lfsconfig", &url, "with files elsewhere").await;
        world
    }

    fn lfs_request(&self, who: &str) -> FetchRequest {
        let mut request = self.request(None);
        request.policy.allow_private = true;
        request.lfs = Some(Lfs { allow_local: true, who: Arc::new(Known(who.into())) });
        request
    }
}

fn why(error: GitError) -> String {
    assert!(error.hint().is_some(), "{error:?}");
    match error {
        GitError::Lfs { why, .. } => why,
        other => panic!("{other:?}"),
    }
}

/// What a server answers, by its port, the path and the body that it got: status, type and body.
type Answer = fn(u16, &str, &[u8]) -> (u16, String, Vec<u8>);

#[tokio::test]
async fn files_come_from_their_server_and_pointers_nobody_tracks_stay() {
    let server = Server::new(|port, asked, body| match asked.strip_prefix("GET /o/") {
        Some(rest) if rest.starts_with(&oid(b"same")) => (200, String::new(), b"same".to_vec()),
        Some(_) => (200, String::new(), b"other".to_vec()),
        None => (200, String::new(), sent_to(port, body)),
    })
    .await;
    let world = World::with_lfs(
        &server,
        &[("a.bin", b"same"), ("deep/er/b.bin", b"same"), ("ünd \"c\".bin", b"other"), ("d.txt", b"other")],
    )
    .await;
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(world.repo.join("a.bin"), mode).unwrap();
    }
    world.commit("x", "x", "runs").await;
    world.fetch(&world.request(None)).await.unwrap();
    assert_eq!(world.read("a.bin"), pointer(b"same"), "only where it is asked for");

    let here = format!("http://127.0.0.1:{}/lfs", server.port);
    let checkout = world.fetch(&world.lfs_request(&here)).await.unwrap();
    assert_eq!((world.read("a.bin"), world.read("deep/er/b.bin")), ("same".into(), "same".into()));
    assert_eq!(world.read("ünd \"c\".bin"), "other");
    assert_eq!(world.read("d.txt"), pointer(b"other"), "no attribute says that it is in Git LFS");
    let mode = std::fs::metadata(world.dest().join("a.bin")).unwrap().mode();
    assert_eq!(mode & 0o111, 0o111, "{mode:o}");
    assert!(!world.dest().join(".git").exists());
    assert_ne!(checkout.sha256, [0; 32]);
    let got = server.got();
    assert_eq!(got.len(), 3, "each object once: {got:?}");
    assert_eq!(got[0].0, "POST /lfs/objects/batch");
    let basic = format!("Basic {}", base64::Engine::encode(&base64::prelude::BASE64_STANDARD, "ada:s3cret"));
    assert!(got.iter().all(|(_, who, _)| who.as_deref() == Some(basic.as_str())), "{got:?}");
    // Somebody else's server gets nothing of it.
    world.fetch(&world.lfs_request("http://elsewhere/")).await.unwrap();
    assert!(server.got()[3..].iter().all(|(_, who, _)| who.is_none()));
}

#[tokio::test]
async fn what_comes_is_what_was_pointed_to_or_the_fetch_fails() {
    let files: &[(&str, &[u8])] = &[("a.bin", b"right")];
    let fetch = async |answer: Answer| {
        let server = Server::new(answer).await;
        let world = World::with_lfs(&server, files).await;
        let failed = world.fetch(&world.lfs_request("")).await.unwrap_err();
        (failed, server)
    };
    let said = why(fetch(|port, asked, body| match asked.starts_with("GET") {
        true => (200, String::new(), b"wrong".to_vec()),
        false => (200, String::new(), sent_to(port, body)),
    })
    .await
    .0);
    assert!(said.contains("a.bin") && said.contains("another SHA-256"), "{said}");
    assert!(!said.contains("signature"), "{said}");
    let said = why(fetch(|port, asked, body| match asked.starts_with("GET") {
        true => (200, String::new(), b"right and more".to_vec()),
        false => (200, String::new(), sent_to(port, body)),
    })
    .await
    .0);
    assert!(said.contains("more came"), "{said}");
    let said = why(fetch(|_, _, _| (401, String::new(), Vec::new())).await.0);
    assert!(said.contains("wants credentials"), "{said}");
    let said = why(fetch(|_, _, body| {
        let asked: Value = serde_json::from_slice(body).unwrap();
        let error = json!({ "code": 404, "message": "gone\u{7}" });
        let object = json!({ "oid": asked["objects"][0]["oid"], "size": 5, "error": error });
        (200, String::new(), json!({ "objects": [object] }).to_string().into_bytes())
    })
    .await
    .0);
    assert!(said.contains("404 (\"gone\")"), "{said}");
    let said = why(fetch(|_, _, _| (200, String::new(), b"{\"objects\":[]}".to_vec())).await.0);
    assert!(said.contains("says nothing of it"), "{said}");
    let said = why(fetch(|_, _, _| (200, String::new(), vec![b' '; 2 << 20])).await.0);
    assert!(said.contains("too large"), "{said}");
    // A server that fails for a moment is asked again.
    let (failed, server) = fetch(|_, _, _| (503, String::new(), b"{\"message\":\"busy\"}".to_vec())).await;
    assert!(why(failed).contains("503 (\"busy\")"));
    assert_eq!(server.got().len(), 3);
}

#[tokio::test]
async fn hosts_inside_redirects_and_plain_http_are_minded() {
    let files: &[(&str, &[u8])] = &[("a.bin", b"right")];
    // Another origin gets no credentials, and the server within is none that is allowed.
    let other = Server::new(|_, _, _| (200, String::new(), b"right".to_vec())).await;
    let to = other.port;
    let server = Server::new(move |port, asked, body| match asked.starts_with("GET") {
        true => (302, format!("Location: http://127.0.0.1:{to}/else\r\n"), Vec::new()),
        false => (200, String::new(), sent_to(port, body)),
    })
    .await;
    let world = World::with_lfs(&server, files).await;
    let here = format!("http://127.0.0.1:{}/lfs", server.port);
    world.fetch(&world.lfs_request(&here)).await.unwrap();
    assert_eq!(world.read("a.bin"), "right");
    assert_eq!(other.got()[0].1, None);
    assert!(server.got().iter().all(|(_, who, _)| who.is_some()));

    let mut strict = world.lfs_request(&here);
    strict.policy.allow_private = false;
    let error = world.fetch(&strict).await.unwrap_err();
    assert!(matches!(error, GitError::Guard(_)), "{error:?}");
    assert_eq!(server.got().len(), 2);
    let mut encrypted = world.lfs_request(&here);
    encrypted.lfs = Some(Lfs { allow_local: false, who: Arc::new(Known(String::new())) });
    assert!(why(world.fetch(&encrypted).await.unwrap_err()).contains("only https"));

    let round = Server::new(|port, asked, body| match asked.starts_with("GET") {
        true => (302, format!("Location: http://127.0.0.1:{port}/again\r\n"), Vec::new()),
        false => (200, String::new(), sent_to(port, body)),
    })
    .await;
    let world = World::with_lfs(&round, files).await;
    assert!(why(world.fetch(&world.lfs_request("")).await.unwrap_err()).contains("too often"));
    let file = Server::new(|port, asked, body| match asked.starts_with("GET") {
        true => (302, "Location: file:///etc/passwd\r\n".into(), Vec::new()),
        false => (200, String::new(), sent_to(port, body)),
    })
    .await;
    let world = World::with_lfs(&file, files).await;
    assert!(why(world.fetch(&world.lfs_request("")).await.unwrap_err()).contains("not https"));
}

#[tokio::test]
async fn size_and_number_are_bounded_before_anything_is_fetched() {
    let server = Server::new(|_, _, _| (500, String::new(), Vec::new())).await;
    let world = World::with_lfs(&server, &[("a.bin", b"12345"), ("b.bin", b"12345")]).await;
    let mut request = world.lfs_request("");
    request.limits.file_bytes = 4;
    assert!(why(world.fetch(&request).await.unwrap_err()).contains("larger than 4 bytes"));
    let huge = pointer(b"x").replace("size 1", "size 90000000000");
    world.commit("c.bin", &huge, "huge").await;
    let mut request = world.lfs_request("");
    request.limits.file_bytes = u64::MAX;
    let error = world.fetch(&request).await.unwrap_err();
    assert!(matches!(error, GitError::TooLarge { .. }), "{error:?}");
    let other = pointer(b"12345").replace("size 5", "size 6");
    world.commit("c.bin", &other, "two sizes").await;
    assert!(why(world.fetch(&world.lfs_request("")).await.unwrap_err()).contains("another size"));
    assert!(server.got().is_empty());
}

#[test]
fn a_host_over_ssh_is_asked_as_git_asks_it() {
    for (url, login, path) in [
        ("git@h.example:a/b.git", "git@h.example", "a/b.git"),
        ("ssh://me@h.example:22/a/b", "me@h.example", "/a/b"),
        ("ssh://h.example/a", "git@h.example", "/a"),
        ("ssh://git@[::1]:22/a", "git@::1", "/a"),
    ] {
        let url = GitUrl::parse(url, false).unwrap().0;
        assert_eq!(url.ssh_login_and_path(), Some((login.to_owned(), path)));
    }
    assert_eq!(GitUrl::parse("https://h/a", false).unwrap().0.ssh_login_and_path(), None);
}
