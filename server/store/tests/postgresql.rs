//! Every scenario on PostgreSQL, one after the other in one server, each in a database of its own.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

mod support;

use std::future::Future;
use std::pin::Pin;

/// A scenario by its name. Each makes its future in a frame of its own: in one function, the frames of all of them
/// together are more than a test's stack.
type Scenario = (&'static str, fn(support::World) -> Pin<Box<dyn Future<Output = ()>>>);

macro_rules! on_postgresql {
    ($($name:ident),* $(,)?) => {
        const SCENARIOS: &[Scenario] = &[
            $((stringify!($name), |world| Box::pin(support::scenarios::$name(world)))),*
        ];
    };
}

scenarios!(on_postgresql);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_scenario_holds_on_postgresql() {
    let server = match support::postgresql::Server::start().await {
        Ok(server) => server,
        Err(why) => {
            assert!(std::env::var_os("BERTH_TEST_REQUIRE_POSTGRES").is_none(), "{why}");
            println!("skipped: {why}");
            return;
        }
    };
    for (name, scenario) in SCENARIOS {
        println!("{name}");
        let url = server.database(name).await;
        scenario(support::World::on(Some(url.clone())).await).await;
        server.remove(&url).await;
    }
}
