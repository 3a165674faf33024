//! Deploying for real, where Docker is there. The pipeline's own tests go deeper; these drive it from outside.

use crate::harness::{Berth, docker_or_skip};

#[tokio::test]
async fn a_dockerfile_becomes_a_live_app_and_goes_without_a_trace() {
    if !docker_or_skip() {
        return;
    }
    let berth = Berth::start().await;
    let status = berth.rest().get("/v1/platform").await.ok();
    assert_eq!(status["docker"]["available"], true, "{status}");
    let live = berth.deploy("dockerfile").await;
    assert_eq!(live.deployment, "dockerfile#1");
    assert_eq!(berth.visit("dockerfile", "/").await.status, 200);
    // Lines are kept in batches, a moment after they were printed.
    let printed = async {
        while berth.cli(["logs", "dockerfile"]).await.ok().stdout.is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(15), printed).await.expect("what the app printed");

    berth.cli(["app", "delete", "dockerfile", "--confirm", "dockerfile"]).await.ok();
    let gone = async {
        while berth.visit("dockerfile", "/").await.status != 404 {
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), gone).await.expect("the app to go");
}
