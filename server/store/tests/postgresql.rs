//! Every scenario on PostgreSQL, one after the other in one server, each in a database of its own.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

mod support;

macro_rules! on_postgresql {
    ($($name:ident),* $(,)?) => {
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
            $({
                println!("{}", stringify!($name));
                let url = server.database(stringify!($name)).await;
                support::scenarios::$name(support::World::on(Some(url.clone())).await).await;
                server.remove(&url).await;
            })*
        }
    };
}

scenarios!(on_postgresql);
