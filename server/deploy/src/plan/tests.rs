use super::*;
use proptest::prelude::*;

fn tree(files: &[(&str, &str)]) -> MemoryTree {
    MemoryTree::new(files.iter().copied())
}

fn settings() -> PlanSettings {
    PlanSettings { cache_scope: "app-1".into(), ..PlanSettings::default() }
}

fn plan_with(files: &[(&str, &str)], change: impl FnOnce(&mut PlanSettings)) -> Result<BuildPlan, PlanError> {
    let mut settings = settings();
    change(&mut settings);
    detect(&tree(files), &settings)
}

fn plan(files: &[(&str, &str)]) -> BuildPlan {
    plan_with(files, |_| {}).unwrap()
}

fn text(plan: &BuildPlan) -> &str {
    match &plan.dockerfile {
        Some(DockerfileSource::Generated { text }) => text,
        other => panic!("no generated Dockerfile but {other:?}"),
    }
}

const EXPRESS: &[(&str, &str)] = &[
    ("package.json", r#"{"scripts":{"start":"node server.js"},"dependencies":{"express":"^5"}}"#),
    ("package-lock.json", "{}"),
    ("server.js", ""),
];
const FLASK: &[(&str, &str)] = &[
    ("app.py", "from flask import Flask\napp = Flask(__name__)\n"),
    ("requirements.txt", "Flask==3.1\ngunicorn\n"),
];
const NEXT: &[(&str, &str)] = &[
    (
        "package.json",
        r#"{"scripts":{"build":"next build","start":"next start"},"dependencies":{"next":"15"},
        "engines":{"node":">=20 <22"},"packageManager":"pnpm@9.15.9"}"#,
    ),
    ("pnpm-lock.yaml", ""),
    (".npmrc", "//r/:_authToken=${NPM_TOKEN}"),
];

#[test]
fn sources_are_recognised_by_the_table() {
    let express_with_docker = [EXPRESS, &[("Dockerfile", "FROM node\nEXPOSE 3000")]].concat();
    let python = ("requirements.txt", "fastapi[standard]");
    for (files, preset, start) in [
        (EXPRESS, "node", Some("node server.js")),
        (&express_with_docker, "dockerfile", None),
        (NEXT, "node", Some("npm start")),
        (&[("package.json", r#"{"main":"./lib/x.js"}"#), ("lib/x.js", "")], "node", Some("node lib/x.js")),
        (&[("server.js", "")], "node", Some("node server.js")),
        (&[("package.json", r#"{"scripts":{"start":"NODE_ENV=x node a"}}"#)], "node", Some("npm start")),
        (FLASK, "flask", Some("gunicorn --bind 0.0.0.0:$PORT 'app:app'")),
        (
            &[
                ("app/__init__.py", "from flask import Flask\ndef create_app():\n    return Flask('x')\n"),
                ("requirements.txt", "flask"),
            ],
            "flask",
            Some("flask --app 'app:create_app()' run --host 0.0.0.0 --port $PORT"),
        ),
        (
            &[("main.py", "import fastapi\napi: fastapi.FastAPI = fastapi.FastAPI(title='x.y')\n"), python],
            "fastapi",
            Some("uvicorn --host 0.0.0.0 --port $PORT main:api"),
        ),
        (
            &[
                ("manage.py", "DJANGO_SETTINGS_MODULE"),
                ("site1/wsgi.py", ""),
                ("requirements.txt", "Django\ngunicorn"),
            ],
            "django",
            Some("gunicorn --bind 0.0.0.0:$PORT site1.wsgi:application"),
        ),
        (
            &[("Procfile", "worker: x\nweb: gunicorn a:b\n"), ("requirements.txt", "")],
            "procfile",
            Some("gunicorn a:b"),
        ),
        (&[("main.py", "print(1)")], "python", Some("python main.py")),
        (&[("index.html", ""), ("style.css", "")], "static", None),
        (&[("dist/index.html", "")], "static", None),
    ] {
        let plan = plan(files);
        assert_eq!((plan.preset.as_str(), plan.start_command.as_deref()), (preset, start));
        assert!(!plan.evidence.is_empty());
    }
    assert_eq!(plan(&[("dist/index.html", "")]).static_dir.as_deref(), Some("dist"));
    assert_eq!(plan(&[("index.html", ""), ("dist/index.html", "")]).static_dir.as_deref(), Some(""));
    assert_eq!(plan(&express_with_docker).port_hint, Some(3000));
    assert_eq!(plan(EXPRESS).port_hint, Some(DEFAULT_PORT));
}

#[test]
fn settings_win_over_what_is_found() {
    let both = [
        EXPRESS,
        FLASK,
        &[("Dockerfile", "FROM x"), ("web/index.html", ""), ("docker/Web.Dockerfile", "FROM y")],
    ]
    .concat();
    let preset = |change: fn(&mut PlanSettings)| plan_with(&both, change).unwrap().preset;
    assert_eq!(preset(|_| {}), "dockerfile");
    assert_eq!(preset(|s| s.builder = Builder::Node), "node");
    assert_eq!(preset(|s| s.builder = Builder::Python), "flask");
    assert_eq!(preset(|s| s.root = Some("./web/".into())), "static");
    assert_eq!(preset(|s| s.output_directory = Some("web".into())), "static");
    let named = plan_with(&both, |s| s.dockerfile = Some("docker/Web.Dockerfile".into())).unwrap();
    assert_eq!(named.dockerfile, Some(DockerfileSource::InTree { path: "docker/Web.Dockerfile".into() }));
    let told = plan_with(&both, |s| {
        s.builder = Builder::Node;
        s.port = Some(4000);
        s.start_command = Some("node server.js --port $PORT".into());
        s.build_command = Some("npm run bundle && echo \"done\"".into());
    })
    .unwrap();
    assert_eq!(told.port_hint, Some(4000));
    assert!(
        text(&told).contains(r#"CMD ["/bin/sh", "-c", "exec node server.js --port $PORT"]"#),
        "{}",
        text(&told)
    );
    assert!(
        text(&told).contains(r#"RUN ["/bin/sh", "-c", "npm run bundle && echo \"done\""]"#),
        "{}",
        text(&told)
    );
}

#[test]
fn bad_settings_are_told_with_what_is_there() {
    let error = |change: fn(&mut PlanSettings)| plan_with(EXPRESS, change).unwrap_err();
    assert!(matches!(
        error(|s| s.root = Some("../x".into())),
        PlanError::BadSetting { setting: "root_directory", .. }
    ));
    assert!(matches!(
        error(|s| s.root = Some("web".into())),
        PlanError::Missing { setting: "root_directory", .. }
    ));
    assert!(matches!(
        error(|s| s.dockerfile = Some("D".into())),
        PlanError::Missing { setting: "dockerfile", .. }
    ));
    assert!(matches!(error(|s| s.build_command = Some("a\nUSER root".into())), PlanError::BadSetting { .. }));
    assert!(matches!(error(|s| s.build_secrets = vec!["A;B".into()]), PlanError::BadSetting { .. }));
    assert!(matches!(error(|s| s.cache_scope = "a,target=/".into()), PlanError::BadSetting { .. }));
    assert!(matches!(error(|s| s.builder = Builder::Python), PlanError::NothingRecognised { .. }));
    let broken = plan_with(&[("package.json", "{")], |_| {}).unwrap_err();
    assert!(matches!(&broken, PlanError::BadFile { path, .. } if path == "package.json"), "{broken}");
}

#[test]
fn what_is_not_recognised_is_told_with_the_nearest_guess() {
    let vite = plan_with(
        &[
            ("package.json", r#"{"scripts":{"build":"vite build"}}"#),
            ("index.html", ""),
            ("public/index.html", ""),
        ],
        |_| {},
    );
    let vite = vite.unwrap_err().to_string();
    assert!(vite.contains("build script but no start script"), "{vite}");
    insta::assert_snapshot!(
        plan_with(&[("package.json", "{}"), ("README.md", "")], |_| {}).unwrap_err().to_string()
    );
    let nested =
        plan_with(&[("README.md", ""), ("web/package.json", r#"{"scripts":{"start":"x"}}"#)], |_| {});
    let nested = nested.unwrap_err().to_string();
    assert!(nested.contains("web/ looks like a node app: set root_directory to \"web\""), "{nested}");
    assert!(plan_with(&[], |_| {}).is_err());
}

#[test]
fn versions_are_mapped_to_base_images_there_are() {
    let node = |file: (&'static str, &'static str)| {
        let plan = plan(&[EXPRESS, &[file]].concat());
        let from = text(&plan).lines().find(|line| line.starts_with("FROM")).unwrap().to_owned();
        (from, plan.warnings.len())
    };
    assert_eq!(node((".nvmrc", "v20.11.1\n")), ("FROM node:20-slim".into(), 0));
    assert_eq!(node((".node-version", "24")), ("FROM node:24-slim".into(), 0));
    assert_eq!(node((".nvmrc", "18")), ("FROM node:22-slim".into(), 1));
    let python = |file: (&'static str, &'static str)| {
        let plan = plan(&[FLASK, &[file]].concat());
        (text(&plan).lines().rfind(|line| line.starts_with("FROM")).unwrap().to_owned(), plan.warnings.len())
    };
    assert_eq!(python((".python-version", "3.13\n")), ("FROM python:3.13-slim".into(), 0));
    assert_eq!(python(("runtime.txt", "python-3.11.9")), ("FROM python:3.11-slim".into(), 0));
    assert_eq!(python((".python-version", "2.7")), ("FROM python:3.12-slim".into(), 1));
    assert_eq!(
        python(("pyproject.toml", "[project]\nrequires-python='>=3.13'")),
        ("FROM python:3.13-slim".into(), 0)
    );
}

#[test]
fn package_managers_are_told_by_their_lock_files() {
    for (lock, install) in [
        ("package-lock.json", "npm ci"),
        ("yarn.lock", "yarn install --frozen-lockfile"),
        ("pnpm-lock.yaml", "pnpm install --frozen-lockfile"),
        ("bun.lock", "bun install --frozen-lockfile"),
    ] {
        let plan = plan(&[("package.json", r#"{"scripts":{"start":"x"}}"#), (lock, "")]);
        assert!(plan.install_command.as_deref().unwrap().starts_with(install), "{lock}");
    }
    for (files, install) in [
        (&[("pyproject.toml", ""), ("uv.lock", "")][..], "uv sync"),
        (&[("pyproject.toml", ""), ("poetry.lock", "")], "poetry install"),
        (&[("Pipfile", ""), ("Pipfile.lock", "")], "pipenv requirements"),
        (&[("pyproject.toml", "")], "pip install ."),
    ] {
        let plan = plan(&[files, &[("main.py", "")]].concat());
        assert!(plan.install_command.as_deref().unwrap().starts_with(install), "{install}");
    }
    let unlocked = plan(&[("package.json", r#"{"scripts":{"start":"x"}}"#)]);
    assert!(unlocked.warnings[0].contains("no lock file"));
}

#[test]
fn generated_dockerfiles() {
    insta::assert_snapshot!("node_express", text(&plan(EXPRESS)));
    let next =
        plan_with(NEXT, |s| s.build_secrets = vec!["NPM_TOKEN".into(), "NEXT_PUBLIC_API".into()]).unwrap();
    insta::assert_snapshot!("node_next_pnpm_secrets", text(&next));
    assert_eq!(next.build_secrets, ["NPM_TOKEN", "NEXT_PUBLIC_API"]);
    insta::assert_snapshot!("python_flask", text(&plan(FLASK)));
    let uv = [
        ("pyproject.toml", "[project]\ndependencies=['fastapi']\n"),
        ("uv.lock", ""),
        ("main.py", "app = FastAPI()"),
    ];
    insta::assert_snapshot!("python_fastapi_uv", text(&plan(&uv)));
    let workspace =
        [("package.json", r#"{"workspaces":["a"],"scripts":{"build":"b","start":"s"}}"#), ("bun.lock", "")];
    insta::assert_snapshot!("node_bun_workspace", text(&plan(&workspace)));
    for one in [&plan(EXPRESS), &next, &plan(FLASK)] {
        assert!(!text(one).contains("syntax=") && text(one).lines().any(|line| line.starts_with("USER ")));
    }
}

#[test]
fn a_plan_survives_being_stored() {
    let plan = plan(FLASK);
    let stored = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<BuildPlan>(&stored).unwrap(), plan);
    let schema = schemars::schema_for!(BuildPlan);
    assert!(schema.as_value().pointer("/properties/evidence").is_some());
}

#[test]
fn dockerfiles_are_read_for_their_last_stage() {
    let read = |text: &str| dockerfile::read(text).exposed;
    assert_eq!(read("FROM a\nEXPOSE 1\nFROM b\nexpose 53/udp 8080/tcp\nEXPOSE 9"), Some(8080));
    assert_eq!(read("FROM a\nEXPOSE \\\n  3000"), Some(3000));
    assert_eq!(read("FROM a\n# EXPOSE 1\nEXPOSE $PORT"), None);
    let none = plan_with(&[("Dockerfile", "# nothing")], |_| {}).unwrap_err();
    assert!(none.to_string().contains("it has no FROM"));
}

#[test]
fn a_directory_on_disk_is_seen_without_following_links_out() {
    let top = tempfile::tempdir().unwrap();
    let root = top.path().join("src");
    std::fs::create_dir_all(root.join("node_modules/x")).unwrap();
    std::fs::write(top.path().join("secret"), "{}").unwrap();
    std::fs::write(root.join("index.html"), "\u{feff}hello").unwrap();
    std::fs::write(root.join("node_modules/x/package.json"), "{}").unwrap();
    std::os::unix::fs::symlink("../secret", root.join("package.json")).unwrap();
    let tree = DirectoryTree::scan(&root).unwrap();
    let paths: Vec<_> = tree.paths().iter().map(String::as_str).collect();
    assert_eq!(paths, ["index.html", "package.json"]);
    assert_eq!((tree.read("index.html").as_deref(), tree.read("package.json")), (Some("hello"), None));
}

proptest! {
    /// Whatever lies in a source: detection answers, and a plan names only what is there.
    #[test]
    fn any_tree_gets_an_answer(
        files in proptest::collection::btree_map(
            "(a/|web/|dist/)?(package.json|Dockerfile|index.html|app.py|main.py|manage.py|requirements.txt|Procfile|\
             pyproject.toml|package-lock.json|pnpm-lock.yaml|Pipfile|server.js|\\.nvmrc|x)",
            "\\PC{0,30}|app = Flask\\(|FROM x|web: a\n|\\{\"scripts\":\\{\"(start|build)\":\"[a-z \"&$]{0,8}\"\\}\\}",
            0..6,
        ),
    ) {
        let tree = MemoryTree::new(files);
        match detect(&tree, &settings()) {
            Ok(plan) => {
                prop_assert!(!plan.evidence.is_empty());
                for fact in plan.evidence.iter().filter(|fact| !fact.path.starts_with("settings.")) {
                    prop_assert!(tree.paths().contains(&fact.path), "{} is not there", fact.path);
                }
                prop_assert_eq!(plan.static_dir.is_some(), plan.dockerfile.is_none());
                if let Some(DockerfileSource::Generated { text }) = &plan.dockerfile {
                    let known = ["#", "FROM ", "RUN ", "ENV ", "COPY ", "WORKDIR ", "USER ", "EXPOSE ", "CMD ", "ARG "];
                    for line in text.lines().filter(|line| !line.is_empty()) {
                        prop_assert!(known.iter().any(|word| line.starts_with(word)), "{}", line);
                    }
                }
            }
            Err(error) => prop_assert!(!error.to_string().is_empty() && !error.hint().is_empty()),
        }
    }
}
