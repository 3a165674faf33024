//! Every scenario on SQLite.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

mod support;

macro_rules! on_sqlite {
    ($($name:ident),* $(,)?) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            support::scenarios::$name(support::World::on(None).await).await;
        }
    )*};
}

scenarios!(on_sqlite);
