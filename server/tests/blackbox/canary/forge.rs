//! The words of a forge that refuses what a tool asks of it.

use serde_json::json;

use super::{Assistant, Watch, canary};
use crate::forge_api::{self, Forge, TOKEN};

/// Takes the webhook of one repository and nothing else, and gives its reasons.
async fn unkind() -> Forge {
    Forge::start(|what, _, _| match what {
        "POST /api/v1/repos/ada/site/hooks" => Ok(json!({ "id": 31 })),
        what if what.ends_with("/hooks") => Err(canary("no_hook")),
        what if what.starts_with("DELETE") => Err(canary("stays")),
        _ => Err(canary("hidden")),
    })
    .await
}

#[tokio::test]
async fn what_a_forge_says_reaches_a_model_in_frames_only() {
    let (forge, berth) = (unkind().await, forge_api::berth().await);
    let assistant = Assistant::new(&berth, false);
    let connect = |app: &str, name: &str| {
        let url = format!("{}/ada/{name}.git", forge.url);
        json!({ "app": app, "git_url": url, "forge": "gitea", "access_token": TOKEN, "poll_minutes": 0 })
    };
    let of = |app: &str| json!({ "app": app });
    for (tool, arguments, doors) in [
        ("app_create", json!({ "name": "web" }), &[][..]),
        ("app_create", json!({ "name": "shut" }), &[]),
        ("repository_connect", connect("web", "site"), &["hidden"]),
        ("repository_connect", connect("shut", "other"), &["hidden", "no_hook"]),
        ("repository_get", of("web"), &[]),
        ("webhook_rotate", of("web"), &["stays"]),
        ("repository_disconnect", json!({ "app": "web", "confirm": "web" }), &["stays"]),
    ] {
        let mut watch = Watch::default();
        let answer = assistant.call(tool, arguments).await;
        assert!(answer["result"]["isError"] != true && answer["error"].is_null(), "{tool}: {answer:#}");
        watch.look(tool, &answer);
        assert!(watch.strays.is_empty(), "outside of frames: {:#?}\n{answer:#}", watch.strays);
        assert!(doors.iter().all(|door| watch.doors.contains(*door)), "{tool}: {answer:#}");
    }
}
