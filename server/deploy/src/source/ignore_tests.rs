use std::collections::BTreeMap;
use std::io::Read;

use super::*;

struct Tree(tempfile::TempDir);

impl Tree {
    fn of(files: &[(&str, &str)]) -> Self {
        let top = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let full = top.path().join(path);
            std::fs::create_dir_all(full.parent().unwrap()).unwrap();
            std::fs::write(full, text).unwrap();
        }
        Self(top)
    }

    fn pack(&self, options: PackOptions) -> (Vec<String>, PackReport) {
        let mut bytes = Vec::new();
        let report = pack_directory(self.0.path(), &mut bytes, options).unwrap();
        let mut tar = Vec::new();
        flate2::read::GzDecoder::new(bytes.as_slice()).read_to_end(&mut tar).unwrap();
        (entries(&tar).into_keys().collect(), report)
    }

    fn context(&self, dockerfile: &ContextDockerfile<'_>, more: &[&str]) -> BTreeMap<String, String> {
        let mut bytes = Vec::new();
        let more: Vec<String> = more.iter().map(|rule| (*rule).to_owned()).collect();
        docker_context(self.0.path(), dockerfile, &more, &mut bytes).unwrap();
        entries(&bytes)
    }
}

fn entries(tar: &[u8]) -> BTreeMap<String, String> {
    let mut archive = tar::Archive::new(tar);
    let read = |entry: std::io::Result<tar::Entry<'_, &[u8]>>| {
        let mut entry = entry.unwrap();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        (entry.path().unwrap().to_string_lossy().into_owned(), text)
    };
    archive.entries().unwrap().map(read).filter(|(name, _)| !name.ends_with('/')).collect()
}

#[test]
fn without_rules_what_a_build_makes_again_is_left_out() {
    let tree = Tree::of(&[
        ("index.js", ""),
        ("dist/app.js", ""),
        (".git/config", ""),
        ("node_modules/a/i.js", ""),
        ("web/node_modules/b.js", ""),
        (".hidden", ""),
        ("target/x", ""),
    ]);
    assert_eq!(tree.pack(PackOptions::default()).0, [".hidden", "dist/app.js", "index.js"]);
}

#[test]
fn the_ignore_files_are_honoured_and_berthignore_wins() {
    let tree = Tree::of(&[
        (".gitignore", "*.log\ndist/\n/node_modules"),
        (".berthignore", "!dist/\ndrafts"),
        (".dockerignore", "Dockerfile\ntests\n"),
        ("Dockerfile", ""),
        ("a.log", ""),
        ("dist/app.js", ""),
        ("drafts/x", ""),
        ("tests/t", ""),
        ("node_modules/x", ""),
        ("sub/.gitignore", "secret"),
        ("sub/secret", ""),
        ("sub/kept", ""),
    ]);
    assert_eq!(
        tree.pack(PackOptions::default()).0,
        [
            ".berthignore",
            ".dockerignore",
            ".gitignore",
            "Dockerfile",
            "dist/app.js",
            "sub/.gitignore",
            "sub/kept"
        ]
    );
}

#[test]
fn secrets_are_left_out_or_reported() {
    let tree = Tree::of(&[
        ("app.py", ""),
        (".env", "A=1"),
        (".env.example", "A="),
        ("web/.env.local", ""),
        ("tls/server.key", ""),
    ]);
    let (names, report) = tree.pack(PackOptions::default());
    assert_eq!(names, [".env.example", "app.py", "tls/server.key"]);
    let skipped: Vec<_> = report.skipped.iter().map(|skipped| (skipped.path.as_str(), skipped.why)).collect();
    assert_eq!(skipped, [(".env", SkipReason::EnvFile), ("web/.env.local", SkipReason::EnvFile)]);
    assert_eq!(report.secrets, ["tls/server.key"]);
    let (names, report) = tree.pack(PackOptions { include_env: true });
    assert!(names.contains(&".env".to_owned()) && report.secrets.contains(&".env".to_owned()));
}

#[test]
fn the_same_files_make_the_same_bytes_and_links_stay_links() {
    let make = || {
        let tree = Tree::of(&[("b/x", "x"), ("a", "a")]);
        std::os::unix::fs::symlink("b/x", tree.0.path().join("in")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", tree.0.path().join("out")).unwrap();
        let mut bytes = Vec::new();
        let report = pack_directory(tree.0.path(), &mut bytes, PackOptions::default()).unwrap();
        assert_eq!(report.skipped, [Skipped { path: "out".into(), why: SkipReason::LinkOut }]);
        bytes
    };
    let bytes = make();
    assert_eq!(bytes, make());
    // What is packed here is accepted where it is unpacked, with the same hash as the directory.
    let top = tempfile::tempdir().unwrap();
    let dest = top.path().join("tree");
    let never = std::sync::atomic::AtomicBool::new(false);
    let options = super::super::archive::ExtractOptions::default();
    let report =
        super::super::archive::extract_from(std::io::Cursor::new(bytes), &dest, &options, &never).unwrap();
    assert_eq!((report.files, report.bytes), (2, 2));
    assert_eq!(std::fs::read_link(dest.join("in")).unwrap(), Path::new("b/x"));
}

#[test]
fn a_build_context_follows_dockerignore_alone() {
    let tree = Tree::of(&[
        (".dockerignore", "*\n!src\n!package.json\nsrc/*.test.js"),
        (".gitignore", "src/generated.js"),
        ("Dockerfile", "FROM scratch"),
        ("package.json", "{}"),
        ("src/a.js", ""),
        ("src/a.test.js", ""),
        ("src/generated.js", ""),
        ("README.md", ""),
        (".env", "A=1"),
    ]);
    let context = tree.context(&ContextDockerfile::InTree("Dockerfile"), &[]);
    let names: Vec<_> = context.keys().map(String::as_str).collect();
    assert_eq!(names, [".dockerignore", "Dockerfile", "package.json", "src/a.js", "src/generated.js"]);
}

#[test]
fn a_generated_dockerfile_is_added_and_an_own_one_may_bring_its_rules() {
    let tree = Tree::of(&[
        ("a", ""),
        ("b", ""),
        (".git/HEAD", ""),
        ("deploy/web.Dockerfile", "FROM x"),
        ("deploy/web.Dockerfile.dockerignore", "b\ndeploy"),
        (".dockerignore", "a"),
        (GENERATED_DOCKERFILE, "FROM evil"),
    ]);
    let generated = tree.context(&ContextDockerfile::Generated("FROM scratch\n"), &[".git", "deploy"]);
    let names: Vec<_> = generated.keys().map(String::as_str).collect();
    assert_eq!(names, [GENERATED_DOCKERFILE, ".dockerignore", "b"]);
    assert_eq!(generated[GENERATED_DOCKERFILE], "FROM scratch\n");
    let own = tree.context(&ContextDockerfile::InTree("deploy/web.Dockerfile"), &[]);
    assert!(own.contains_key("deploy/web.Dockerfile") && own.contains_key("a") && !own.contains_key("b"));
    for path in ["../x", "/etc/passwd", "missing"] {
        let context = docker_context(tree.0.path(), &ContextDockerfile::InTree(path), &[], Vec::new());
        assert!(context.is_err(), "{path}");
    }
}

#[test]
fn an_empty_directory_is_no_source() {
    let tree = Tree::of(&[(".git/HEAD", "x")]);
    let result = pack_directory(tree.0.path(), Vec::new(), PackOptions::default());
    assert!(matches!(result, Err(PackError::Empty { .. })));
}
