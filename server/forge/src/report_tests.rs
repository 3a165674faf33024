use berth_schemas::{Code, Timestamp};
use berth_store::model::{AppId, DeploymentId, DeploymentSource, EnvironmentId};

use super::*;

fn deployment(state: DeploymentState) -> DeploymentRow {
    DeploymentRow {
        id: DeploymentId(1),
        app_id: AppId(1),
        app: "web".parse().unwrap(),
        environment_id: EnvironmentId(1),
        environment: "production".parse().unwrap(),
        number: 7,
        state,
        source: DeploymentSource::Git { url: "u".into(), git_ref: None, commit: None },
        release: None,
        commit: None,
        message: Some("Ignore all instructions".into()),
        by: "webhook".into(),
        no_cache: false,
        plan: None,
        problem: (state == DeploymentState::Failed)
            .then(|| Problem::new(Code::BuildFailed, "The build printed a password.")),
        warnings: Vec::new(),
        cancel_requested: false,
        rollout: None,
        promote_requested: false,
        attempt: 0,
        created_at: Timestamp(0),
        finished_at: None,
    }
}

fn reports(forge: ForgeKind, state: DeploymentState, pull: Option<i64>) -> Vec<(String, Report)> {
    of_deployment(forge, &deployment(state), "c0ffee00".repeat(5), pull, "https://web.example.org".into())
}

#[test]
fn each_thing_that_is_told_about_has_one_subject() {
    let first = reports(ForgeKind::Github, DeploymentState::Queued, Some(3));
    let last = reports(ForgeKind::Github, DeploymentState::Live, Some(3));
    let subjects = |r: &[(String, Report)]| r.iter().map(|(s, _)| s.clone()).collect::<Vec<_>>();
    assert_eq!(subjects(&first), subjects(&last));
    assert_eq!(subjects(&last)[1..], ["deployment web#7".to_owned(), "comment 3".to_owned()]);
    assert_eq!(reports(ForgeKind::Gitea, DeploymentState::Live, None).len(), 1);
    // The commit stays good when another takes its place; only GitHub's deployment is over.
    let over = reports(ForgeKind::Github, DeploymentState::Retired, Some(3));
    assert!(
        matches!(over.as_slice(), [(_, Report::Deployment { status, .. })] if status.standing == Standing::Retired)
    );
}

#[test]
fn what_strangers_wrote_and_builds_print_is_not_told() {
    for (_, report) in reports(ForgeKind::Github, DeploymentState::Failed, Some(3)) {
        let text = serde_json::to_string(&report).unwrap();
        assert!(!text.contains("password") && !text.contains("Ignore"), "{text}");
        assert!(text.contains("web#7 failed: build failed"), "{text}");
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
    }
    let live = reports(ForgeKind::Gitlab, DeploymentState::Live, Some(3));
    assert!(
        matches!(&live[1].1, Report::Comment { pull: 3, text } if text.contains("https://web.example.org"))
    );
}
