use base64::{Engine, prelude::BASE64_STANDARD as BASE64};
use proptest::prelude::*;

use super::*;

const OLD: &str = "1111111111111111111111111111111111111111";
const NEW: &str = "2222222222222222222222222222222222222222";
const SECRET: &str = "a secret of the webhook";
const NOW: Timestamp = Timestamp(1_767_225_600_000_000);

macro_rules! fixture {
    ($name:literal) => {
        include_bytes!(concat!("../../fixtures/", $name, ".json"))
    };
}

fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
    list.iter().map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap())).collect()
}

fn moved(kind: ForgeKind, event: &str, body: &[u8]) -> (RemoteIdentity, Vec<(GitChange, GitCommits)>) {
    match read(kind, event, body).unwrap() {
        Told::Moved { repository, changes } => (repository, changes),
        other => panic!("{event} tells {other:?}"),
    }
}

fn only(kind: ForgeKind, event: &str, body: &[u8]) -> (GitChange, GitCommits) {
    let mut changes = moved(kind, event, body).1;
    assert_eq!(changes.len(), 1, "{changes:?}");
    changes.remove(0)
}

fn branch_moved(name: &str) -> GitChange {
    GitChange::Branch { branch: name.into(), before: Some(OLD.into()), commit: NEW.into() }
}

fn pull(number: i64, fork: Option<&str>, commit: &str) -> GitChange {
    GitChange::Pull {
        number,
        branch: "lighthouse".into(),
        base: "main".into(),
        commit: commit.into(),
        fork: fork.is_some(),
        head_url: fork.map(str::to_owned),
        title: Some("A lighthouse".into()),
    }
}

fn texts(commits: &GitCommits) -> [&str; 3] {
    [&commits.message, &commits.author, &commits.pusher].map(|t| t.as_ref().map_or("", |t| t.0.trim()))
}

#[test]
fn github_tells_pushes_tags_deletions_and_pull_requests() {
    let (repository, _) = moved(ForgeKind::Github, "push", fixture!("github_push"));
    assert_eq!(repository.id.as_deref(), Some("35129377"));
    assert_eq!(repository.full_name.as_deref(), Some("acme/site"));
    assert_eq!(repository.default_branch.as_deref(), Some("main"));
    let (change, commits) = only(ForgeKind::Github, "push", fixture!("github_push"));
    assert_eq!(change, branch_moved("main"));
    assert_eq!(texts(&commits), ["Build a second quay\n\nWith a crane.", "Ada", "ada"]);
    assert_eq!(commits.paths.unwrap(), ["index.html", "quay/crane.js", "quay/rope.js"]);
    let gone = only(ForgeKind::Github, "push", fixture!("github_branch_deleted")).0;
    assert_eq!(gone, GitChange::BranchDeleted { branch: "feature/quay".into() });
    let tag = only(ForgeKind::Github, "push", fixture!("github_tag")).0;
    assert_eq!(tag, GitChange::Tag { tag: "v1.2".into(), commit: NEW.into() });
    let opened = only(ForgeKind::Github, "pull_request", fixture!("github_pull")).0;
    assert_eq!(opened, pull(7, Some("https://github.com/eve/site.git"), NEW));
    assert_eq!(read(ForgeKind::Github, "ping", fixture!("github_ping")).unwrap(), Told::Ping);
    assert_eq!(read(ForgeKind::Github, "issues", b"{}").unwrap(), Told::Unused);
}

#[test]
fn what_a_push_took_away_or_a_list_left_out_is_not_taken_for_all_paths() {
    let edited = |from: &str, to: &str| {
        let text = std::str::from_utf8(fixture!("github_push")).unwrap();
        assert!(text.contains(from));
        only(ForgeKind::Github, "push", text.replacen(from, to, 1).as_bytes()).1.paths
    };
    assert_eq!(edited("\"forced\": false", "\"forced\": true"), None);
    assert_eq!(edited(OLD, &"0".repeat(40)), None);
    assert_eq!(edited("\"commits\":", "\"total_commits\": 9, \"commits\":"), None);
    assert!(edited("\"forced\": false", "\"forced\": false").is_some());
}

#[test]
fn gitlab_tells_pushes_tags_and_merge_requests() {
    let (repository, _) = moved(ForgeKind::Gitlab, "Push Hook", fixture!("gitlab_push"));
    assert_eq!(
        (repository.id.as_deref(), repository.full_name.as_deref()),
        (Some("15"), Some("acme/web/site"))
    );
    let (change, commits) = only(ForgeKind::Gitlab, "Push Hook", fixture!("gitlab_push"));
    assert_eq!(change, branch_moved("main"));
    assert_eq!(texts(&commits), ["Build a second quay", "Ada Lovelace", "ada"]);
    assert_eq!(commits.paths.unwrap(), ["index.html", "quay/crane.js"]);
    let tag = only(ForgeKind::Gitlab, "Tag Push Hook", fixture!("gitlab_tag")).0;
    assert_eq!(tag, GitChange::Tag { tag: "v1.2".into(), commit: NEW.into() });
    let (opened, commits) = only(ForgeKind::Gitlab, "Merge Request Hook", fixture!("gitlab_merge"));
    assert_eq!(opened, pull(7, Some("https://gitlab.com/eve/site.git"), NEW));
    assert_eq!(texts(&commits), ["Light it", "Eve", "eve"]);
    let with = |action: &str| {
        let text = std::str::from_utf8(fixture!("gitlab_merge")).unwrap();
        moved(ForgeKind::Gitlab, "Merge Request Hook", text.replacen("\"open\"", action, 1).as_bytes()).1
    };
    assert_eq!(with("\"merge\"")[0].0, GitChange::PullClosed { number: 7, merged: true });
    assert_eq!(with("\"close\"")[0].0, GitChange::PullClosed { number: 7, merged: false });
    // A new title is no new head.
    assert!(with("\"update\"").is_empty());
    assert_eq!(with(&format!("\"update\", \"oldrev\": \"{OLD}\"")).len(), 1);
    assert!(with("\"approved\"").is_empty());
}

#[test]
fn gitea_and_forgejo_tell_pushes_deletions_and_pull_requests() {
    for kind in [ForgeKind::Gitea, ForgeKind::Forgejo] {
        let (repository, _) = moved(kind, "push", fixture!("gitea_push"));
        assert_eq!(
            (repository.id.as_deref(), repository.full_name.as_deref()),
            (Some("140"), Some("ada/site"))
        );
        let (change, commits) = only(kind, "push", fixture!("gitea_push"));
        assert_eq!(change, branch_moved("main"));
        assert_eq!(texts(&commits), ["Build a second quay", "Ada", "ada"]);
        assert_eq!(commits.paths.unwrap(), ["index.html", "quay/crane.js"]);
        let gone = only(kind, "delete", fixture!("gitea_delete")).0;
        assert_eq!(gone, GitChange::BranchDeleted { branch: "feature/quay".into() });
        assert_eq!(only(kind, "pull_request", fixture!("gitea_pull")).0, pull(3, None, NEW));
        let sync = std::str::from_utf8(fixture!("gitea_pull")).unwrap().replacen("opened", "synchronized", 1);
        assert_eq!(only(kind, "pull_request_sync", sync.as_bytes()).0, pull(3, None, NEW));
        let closed =
            sync.replacen("synchronized", "closed", 1).replacen("\"merged\": false", "\"merged\": true", 1);
        let closed = only(kind, "pull_request", closed.as_bytes()).0;
        assert_eq!(closed, GitChange::PullClosed { number: 3, merged: true });
        // A push tells of new branches, too.
        assert_eq!(read(kind, "create", b"{}").unwrap(), Told::Unused);
    }
}

#[test]
fn bitbucket_tells_several_changes_at_once() {
    let (repository, changes) = moved(ForgeKind::Bitbucket, "repo:push", fixture!("bitbucket_push"));
    assert_eq!(repository.id.as_deref(), Some("{b7f9e1d2-0000-4000-8000-000000000001}"));
    let (what, commits): (Vec<_>, Vec<_>) = changes.into_iter().unzip();
    assert_eq!(
        what,
        [
            branch_moved("main"),
            GitChange::BranchDeleted { branch: "feature/quay".into() },
            GitChange::Tag { tag: "v1.2".into(), commit: NEW.into() },
        ]
    );
    assert_eq!(texts(&commits[0]), ["Build a second quay", "Ada", "ada"]);
    assert_eq!(commits[0].paths, None);
    let opened = only(ForgeKind::Bitbucket, "pullrequest:created", fixture!("bitbucket_pull")).0;
    assert_eq!(opened, pull(7, Some("https://bitbucket.org/eve/site.git"), &NEW[..12]));
    let merged = only(ForgeKind::Bitbucket, "pullrequest:fulfilled", fixture!("bitbucket_pull")).0;
    assert_eq!(merged, GitChange::PullClosed { number: 7, merged: true });
    assert_eq!(read(ForgeKind::Bitbucket, "repo:fork", b"{}").unwrap(), Told::Unused);
}

fn generic_body(at: i64, name: &str) -> String {
    format!(
        r#"{{"id":"build-1","timestamp":{at},"repository":"/acme/site.git/","ref":"{name}","before":"{OLD}","after":"{NEW}","paths":["a"],"x_new":1}}"#
    )
}

#[test]
fn the_generic_message_is_signed_with_its_time() {
    let seconds = NOW.0 / 1_000_000;
    let checked = |at: i64| {
        let body = generic_body(at, "refs/heads/main");
        let signature = format!("sha256={}", sign(SECRET, body.as_bytes()));
        verify(
            ForgeKind::Generic,
            SECRET,
            &headers(&[("x-berth-signature", &signature)]),
            body.as_bytes(),
            NOW,
        )
    };
    assert_eq!(checked(seconds - 299), Ok(()));
    assert_eq!(checked(seconds - 301), Err(Refused::Stale { seconds: 301 }));
    assert_eq!(checked(seconds + 301), Err(Refused::Stale { seconds: -301 }));
    let body = generic_body(seconds, "refs/heads/main");
    assert_eq!(delivery(ForgeKind::Generic, &HeaderMap::new(), body.as_bytes()).unwrap().id, "build-1");
    let (repository, changes) = moved(ForgeKind::Generic, "push", body.as_bytes());
    assert_eq!(repository.full_name.as_deref(), Some("acme/site"));
    assert_eq!(changes[0].0, branch_moved("main"));
    assert_eq!(changes[0].1.paths.as_deref().unwrap(), ["a"]);
    assert!(read(ForgeKind::Generic, "push", generic_body(seconds, "main").as_bytes()).is_err());
    let shown: serde_json::Value = serde_json::from_str(&generic_message("acme/site", NOW)).unwrap();
    assert_eq!(shown["repository"], "acme/site");
}

/// Headers of a signed webhook of each forge that signs bodies.
fn signed(kind: ForgeKind, secret: &str, body: &[u8]) -> HeaderMap {
    let hex = sign(secret, body);
    let prefixed = format!("sha256={hex}");
    match kind {
        ForgeKind::Github => headers(&[("x-hub-signature-256", &prefixed)]),
        ForgeKind::Bitbucket => headers(&[("x-hub-signature", &prefixed)]),
        ForgeKind::Gitea => headers(&[("x-gitea-signature", &hex)]),
        ForgeKind::Forgejo => headers(&[("x-forgejo-signature", &hex), ("x-gitea-signature", &hex)]),
        ForgeKind::Gitlab => headers(&[("x-gitlab-token", secret)]),
        ForgeKind::Generic => headers(&[("x-berth-signature", &prefixed)]),
    }
}

fn gitlab_signed(key: &[u8], id: &str, at: i64, body: &[u8]) -> HeaderMap {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key);
    let tag = ring::hmac::sign(&key, &[format!("{id}.{at}.").as_bytes(), body].concat());
    let value = format!("v1,AAAA v1,{}", BASE64.encode(tag));
    let at = at.to_string();
    headers(&[("webhook-id", id), ("webhook-timestamp", &at), ("webhook-signature", &value)])
}

#[test]
fn the_example_of_githubs_documentation_is_accepted() {
    let signature = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
    let headers = headers(&[("x-hub-signature-256", signature)]);
    let checked = verify(ForgeKind::Github, "It's a Secret to Everybody", &headers, b"Hello, World!", NOW);
    assert_eq!(checked, Ok(()));
}

#[test]
fn only_the_secret_over_this_very_body_is_accepted() {
    let body: &[u8] = b"{\"zen\":\"\"}";
    for kind in [ForgeKind::Github, ForgeKind::Bitbucket, ForgeKind::Gitea, ForgeKind::Forgejo] {
        let good = signed(kind, SECRET, body);
        assert_eq!(verify(kind, SECRET, &good, body, NOW), Ok(()), "{kind:?}");
        assert!(verify(kind, SECRET, &good, b"{\"zen\":\" \"}", NOW).is_err());
        assert!(verify(kind, "another", &good, body, NOW).is_err());
        assert!(matches!(verify(kind, SECRET, &HeaderMap::new(), body, NOW), Err(Refused::Unsigned { .. })));
        assert!(verify(kind, "", &signed(kind, "", body), body, NOW).is_err(), "no secret is no secret");
        let mut twice = good.clone();
        for (name, value) in &good {
            twice.append(name.clone(), value.clone());
        }
        assert!(verify(kind, SECRET, &twice, body, NOW).is_err(), "two signatures are none");
    }
    // The old SHA-1 signature counts for nothing.
    let sha1 = headers(&[("x-hub-signature", "sha1=0000000000000000000000000000000000000000")]);
    assert!(verify(ForgeKind::Github, SECRET, &sha1, body, NOW).is_err());
    let mut forgejo = signed(ForgeKind::Forgejo, SECRET, body);
    forgejo.insert("x-forgejo-signature", "00".repeat(32).parse().unwrap());
    assert!(verify(ForgeKind::Forgejo, SECRET, &forgejo, body, NOW).is_err());
    let gitea_only = signed(ForgeKind::Gitea, SECRET, body);
    assert_eq!(verify(ForgeKind::Forgejo, SECRET, &gitea_only, body, NOW), Ok(()));
}

#[test]
fn gitlab_is_known_by_its_token_or_its_signature_with_a_time() {
    let body: &[u8] = b"{}";
    let token =
        |value: &str| verify(ForgeKind::Gitlab, SECRET, &headers(&[("x-gitlab-token", value)]), body, NOW);
    assert_eq!(token(SECRET), Ok(()));
    assert!(token("a secret of the webhooK").is_err());
    assert!(verify(ForgeKind::Gitlab, "", &headers(&[("x-gitlab-token", "")]), body, NOW).is_err());
    let key = [7_u8; 32];
    let secret = format!("whsec_{}", BASE64.encode(key));
    let seconds = NOW.0 / 1_000_000;
    let check = |headers: &HeaderMap, body| verify(ForgeKind::Gitlab, &secret, headers, body, NOW);
    let good = gitlab_signed(&key, "msg-1", seconds, body);
    assert_eq!(check(&good, body), Ok(()));
    assert!(check(&good, b"{ }").is_err());
    assert_eq!(
        check(&gitlab_signed(&key, "m", seconds - 600, body), body),
        Err(Refused::Stale { seconds: 600 })
    );
    // A token beside does not make a wrong signature good.
    let mut both = gitlab_signed(&[8; 32], "msg-1", seconds, body);
    both.insert("x-gitlab-token", secret.parse().unwrap());
    assert!(check(&both, body).is_err());
    let mut named = good.clone();
    named.insert("x-gitlab-event", "Push Hook".parse().unwrap());
    assert_eq!(delivery(ForgeKind::Gitlab, &named, body).unwrap().id, "msg-1");
    assert!(delivery(ForgeKind::Gitlab, &good, body).is_err(), "no event");
}

#[test]
fn a_webhook_names_itself() {
    let github = headers(&[("x-github-delivery", "72d3162e"), ("x-github-event", "push")]);
    let named = delivery(ForgeKind::Github, &github, b"").unwrap();
    assert_eq!((named.id.as_str(), named.event.as_str()), ("72d3162e", "push"));
    assert!(delivery(ForgeKind::Github, &headers(&[("x-github-event", "push")]), b"").is_err());
    assert!(delivery(ForgeKind::Github, &headers(&[("x-github-delivery", "72d3162e")]), b"").is_err());
    let old_gitlab = headers(&[("x-gitlab-event", "Push Hook")]);
    assert_eq!(delivery(ForgeKind::Gitlab, &old_gitlab, b"a").unwrap().id, digest(b"a"));
    let bitbucket = headers(&[("x-request-uuid", "u"), ("x-event-key", "repo:push")]);
    assert_eq!(delivery(ForgeKind::Bitbucket, &bitbucket, b"").unwrap().event, "repo:push");
}

#[test]
fn another_repository_is_told_apart() {
    let told = |id: Option<&str>, name: &str| RemoteIdentity {
        id: id.map(str::to_owned),
        full_name: Some(name.to_owned()),
        default_branch: None,
    };
    assert!(same_repository(&told(Some("1"), "acme/site"), Some("1"), "acme/site").is_ok());
    assert!(same_repository(&told(Some("1"), "acme/renamed"), Some("1"), "acme/site").is_ok());
    assert!(same_repository(&told(Some("2"), "acme/site"), Some("1"), "acme/site").is_err());
    assert!(same_repository(&told(Some("2"), "Acme/Site"), None, "acme/site").is_ok());
    assert!(same_repository(&told(None, "acme/other"), None, "acme/site").is_err());
    assert!(same_repository(&RemoteIdentity::default(), None, "acme/site").is_err());
}

#[test]
fn impossible_names_and_commits_are_refused() {
    let text = std::str::from_utf8(fixture!("github_push")).unwrap();
    for (from, to) in [
        ("refs/heads/main", "refs/heads/--upload-pack=x"),
        ("refs/heads/main", "refs/heads/a..b"),
        ("refs/heads/main", "refs/heads/a b"),
        (NEW, "deadbeef"),
        (NEW, "zz22222222222222222222222222222222222222"),
    ] {
        let refused = read(ForgeKind::Github, "push", text.replace(from, to).as_bytes());
        assert!(matches!(refused, Err(Refused::BadBody(_))), "{to}: {refused:?}");
    }
    // Neither a branch nor a tag: GitHub's refs of pull requests, notes.
    let (_, changes) =
        moved(ForgeKind::Github, "push", text.replace("refs/heads/main", "refs/notes/x").as_bytes());
    assert!(changes.is_empty());
}

/// Whatever is read has names and commits that git can be given.
fn sound(change: &GitChange) {
    let (name, commit) = match change {
        GitChange::Branch { branch, commit, .. } => (Some(branch), Some(commit)),
        GitChange::BranchDeleted { branch } => (Some(branch), None),
        GitChange::Tag { tag, commit } => (Some(tag), Some(commit)),
        GitChange::TagDeleted { tag } => (Some(tag), None),
        GitChange::Pull { branch, base, commit, number, .. } => {
            assert!(GitRef::parse(base).is_ok() && *number > 0);
            (Some(branch), Some(commit))
        }
        GitChange::PullClosed { .. } => (None, None),
    };
    assert!(name.is_none_or(|n| GitRef::parse(n).is_ok()));
    assert!(commit.is_none_or(|c| c.len() >= 12 && c.bytes().all(|b| b.is_ascii_hexdigit())));
}

const EVENTS: &[&str] = &[
    "push",
    "pull_request",
    "pull_request_sync",
    "delete",
    "Push Hook",
    "Tag Push Hook",
    "Merge Request Hook",
    "repo:push",
    "pullrequest:created",
    "pullrequest:fulfilled",
    "ping",
];
const BODIES: &[&[u8]] = &[
    fixture!("github_push"),
    fixture!("github_pull"),
    fixture!("github_tag"),
    fixture!("gitlab_push"),
    fixture!("gitlab_merge"),
    fixture!("gitea_push"),
    fixture!("gitea_delete"),
    fixture!("bitbucket_push"),
    fixture!("bitbucket_pull"),
];

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(
        kind in 0..ForgeKind::ALL.len(), event in 0..EVENTS.len(), body in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        let _ = read(ForgeKind::ALL[kind], EVENTS[event], &body);
        let _ = delivery(ForgeKind::ALL[kind], &HeaderMap::new(), &body);
    }

    #[test]
    fn a_payload_with_a_changed_value_is_sound_or_refused(
        kind in 0..ForgeKind::ALL.len(), event in 0..EVENTS.len(), body in 0..BODIES.len(),
        at in any::<prop::sample::Index>(), value in "\\PC{0,12}",
    ) {
        // One string of the payload becomes another.
        let text = std::str::from_utf8(BODIES[body]).unwrap();
        let quotes: Vec<usize> = text.match_indices('"').map(|(i, _)| i).collect();
        let open = at.index(quotes.len() / 2) * 2;
        let value = serde_json::to_string(&value).unwrap();
        let edited = format!("{}{value}{}", &text[..quotes[open]], &text[quotes[open + 1] + 1..]);
        if let Ok(Told::Moved { changes, .. }) = read(ForgeKind::ALL[kind], EVENTS[event], edited.as_bytes()) {
            changes.iter().for_each(|(change, _)| sound(change));
        }
    }

    #[test]
    fn no_changed_byte_keeps_its_signature(
        kind in 0..4_usize, body in prop::collection::vec(any::<u8>(), 1..200), at in any::<prop::sample::Index>(), bit in 0..8_u8,
    ) {
        let kind = [ForgeKind::Github, ForgeKind::Bitbucket, ForgeKind::Gitea, ForgeKind::Forgejo][kind];
        let headers = signed(kind, SECRET, &body);
        prop_assert!(verify(kind, SECRET, &headers, &body, NOW).is_ok());
        let mut changed = body.clone();
        changed[at.index(body.len())] ^= 1 << bit;
        prop_assert!(verify(kind, SECRET, &headers, &changed, NOW).is_err());
    }
}
