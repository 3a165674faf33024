//! Sentry's crate for Rust, as it comes, in this process.

use std::{fmt, time::Duration};

use sentry::protocol;
use serde_json::{Value, json};

use super::{dsn, found};
use crate::harness::Berth;

#[derive(Debug)]
struct NoPrice;

impl fmt::Display for NoPrice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no price for pear")
    }
}

impl std::error::Error for NoPrice {}

#[derive(Debug)]
struct CheckoutFailed(NoPrice);

impl fmt::Display for CheckoutFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the checkout failed")
    }
}

impl std::error::Error for CheckoutFailed {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

/// All that a program does; the client waits for its answers at the end.
fn program(dsn: &str) {
    let mut options = sentry::ClientOptions::default();
    options.release = Some("shop@9".into());
    options.environment = Some("production".into());
    options.traces_sampling_strategy = sentry::TracesSamplingStrategy::FixedRate(1.0);
    options.attach_stacktrace = true;
    options.send_default_pii = true;
    options.in_app_include = vec!["blackbox"];
    let guard = sentry::init((dsn.to_owned(), options));
    sentry::configure_scope(|scope| {
        scope.set_user(Some(protocol::User {
            id: Some("7".into()),
            email: Some("ann@shop.example".into()),
            ..protocol::User::default()
        }));
        scope.set_tag("shop", "north");
    });
    sentry::add_breadcrumb(protocol::Breadcrumb {
        category: Some("cart".into()),
        message: Some("opened the cart".into()),
        ..protocol::Breadcrumb::default()
    });
    sentry::capture_error(&CheckoutFailed(NoPrice));
    sentry::capture_message("the disk is almost full", sentry::Level::Warning);
    sentry::with_scope(
        |scope| {
            scope.add_attachment(protocol::Attachment {
                buffer: b"a\n\0b".to_vec(),
                filename: "notes.bin".into(),
                ..protocol::Attachment::default()
            });
        },
        || sentry::capture_message("with notes", sentry::Level::Info),
    );
    let transaction = sentry::start_transaction(sentry::TransactionContext::new("nightly", "task"));
    transaction.start_child("step", "count").finish();
    transaction.finish();
    let check_in = protocol::MonitorCheckIn {
        check_in_id: protocol::Uuid::new_v4(),
        monitor_slug: "nightly".into(),
        status: protocol::MonitorCheckInStatus::Ok,
        environment: Some("production".into()),
        duration: Some(1.5),
        monitor_config: None,
    };
    let mut envelope = sentry::Envelope::new();
    envelope.add_item(protocol::EnvelopeItem::MonitorCheckIn(check_in));
    sentry::Hub::current().client().unwrap().send_envelope(envelope);
    let crashed = std::panic::catch_unwind(|| panic!("out of pears"));
    assert!(crashed.is_err());
    assert!(guard.close(Some(Duration::from_secs(10))), "all is sent");
}

#[tokio::test]
async fn the_rust_sdk_does_not_notice() {
    let berth = Berth::without_docker().await;
    let dsn = dsn(&berth, "shop").await;
    let to = dsn.dsn.clone();
    tokio::task::spawn_blocking(move || program(&to)).await.unwrap();
    let issues = found(&berth, "release:shop@9 shop:north", 4).await;
    let kind = |kind: &str| {
        let found = issues.iter().find(|i| i["kind"] == kind);
        found.unwrap_or_else(|| panic!("no {kind}: {issues:#?}"))["issue"].as_str().unwrap().to_owned()
    };
    let got = berth.rest().get(&format!("/v1/errors/{}", kind("CheckoutFailed"))).await.ok();
    let kinds: Vec<&Value> =
        got["latest"]["exceptions"].as_array().unwrap().iter().map(|e| &e["kind"]).collect();
    assert_eq!(kinds, ["CheckoutFailed", "NoPrice"], "{got:#}");
    assert!(got["latest"]["breadcrumbs"].to_string().contains("opened the cart"), "{got:#}");
    let crashed = berth.rest().get(&format!("/v1/errors/{}", kind("panic"))).await.ok();
    assert_eq!(
        (&crashed["level"], &crashed["value"]),
        (&json!("fatal"), &json!("out of pears")),
        "{crashed:#}"
    );
    let places = crashed["latest"]["exceptions"][0]["frames"].to_string();
    assert!(places.contains("program"), "{crashed:#}");
    let notes = berth.rest().get(&format!("/v1/errors/{}", kind("with notes"))).await.ok();
    let files = notes["latest"]["attachments"].as_array().unwrap();
    assert_eq!(files.len(), 1, "{files:?}");
    assert_eq!((&files[0]["name"], &files[0]["bytes"]), (&json!("notes.bin"), &json!(4)));
    let told = berth.rest().get("/v1/apps/shop/dsn").await.ok();
    assert_eq!((&told["accepted_24h"], &told["dropped_24h"]), (&json!(4), &json!([])), "{told:#}");
}
