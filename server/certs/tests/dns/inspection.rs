//! What is said of names, against zones that BIND and Knot serve.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::{Duration, Instant},
};

use berth_certs::dns::{Dns, DnsConfig, Resolver};
use berth_schemas::dns::{DnsProblemKind as Kind, DnsReport};
use berth_store::{MasterKey, Store, StoreConfig};

use crate::servers::{NameServer, ZoneFile, bind_is_there, free, knot_is_there};

const MINE: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7));

const ZONE: &str = "
right      A 198.51.100.7
wrong      A 203.0.113.9
both       A 198.51.100.7
both       A 203.0.113.9
six        A 198.51.100.7
six        AAAA 2001:db8::9
www        CNAME hop
hop        CNAME right
away       CNAME right.example.net.
circle     CNAME circle2
circle2    CNAME circle
behind     A 104.16.1.1
*.star     A 198.51.100.7
caa        A 198.51.100.7
caa        CAA 0 issue \"digicert.com\"
fine.caa   A 198.51.100.7
nocaa      A 198.51.100.7
nocaa      CAA 0 issue \"letsencrypt.org\"
nocaa      CAA 0 issuewild \";\"
*.nocaa    A 198.51.100.7
empty      TXT \"nothing else\"
";

async fn dns(resolvers: Vec<Resolver>, authority_port: u16) -> (Dns, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig { data_dir: dir.path().to_owned(), database_url: None };
    let store = Store::open(config, MasterKey::load_or_create(dir.path()).unwrap()).await.unwrap();
    let config =
        DnsConfig { authority_port, own: Arc::new(|| vec![MINE]), ..DnsConfig::new(resolvers, |_| true) };
    (Dns::new(store, config), dir)
}

async fn of(dns: &Dns, name: &str) -> DnsReport {
    dns.inspect(&name.parse().unwrap(), &["letsencrypt.org".to_owned()]).await
}

fn words(report: &DnsReport) -> String {
    report.problems.iter().map(|p| format!("{} {}\n", p.detail, p.fix)).collect()
}

#[tokio::test]
async fn names_are_compared_with_what_they_should_say() {
    if !bind_is_there() {
        return;
    }
    let zones = [
        ZoneFile { name: "example.com", records: ZONE, rules: "" },
        ZoneFile { name: "example.net", records: "right A 198.51.100.7", rules: "" },
    ];
    let bind = NameServer::bind(&zones);
    let (dns, _dir) = dns(vec![Resolver::At(bind.address)], bind.address.port()).await;
    let began = Instant::now();
    let right = of(&dns, "right.example.com").await;
    assert!(right.points_here == Some(true) && right.problems.is_empty(), "{right:#?}");
    assert_eq!(
        right.views.iter().map(|v| (v.own, v.ttl_s)).collect::<Vec<_>>(),
        [(true, Some(300)), (false, Some(300))]
    );
    for alias in ["www.example.com", "away.example.com"] {
        let report = of(&dns, alias).await;
        assert!(report.points_here == Some(true) && report.problems.is_empty(), "{report:#?}");
        assert!(!report.views[0].aliases.is_empty(), "{report:#?}");
    }
    for (name, said) in [
        ("wrong.example.com", "Replace A 203.0.113.9 by 198.51.100.7."),
        ("both.example.com", "Remove A 203.0.113.9"),
        ("six.example.com", "Remove AAAA 2001:db8::9"),
        ("missing.example.com", "Add A missing.example.com → 198.51.100.7."),
        ("empty.example.com", "Add A empty.example.com → 198.51.100.7."),
    ] {
        let report = of(&dns, name).await;
        assert!(report.points_here == Some(false) && words(&report).contains(said), "{name}: {report:#?}");
    }
    assert_eq!(of(&dns, "behind.example.com").await.problems[0].kind, Kind::Proxied);
    let circle = of(&dns, "circle.example.com").await;
    assert!(circle.points_here == Some(false) && circle.problems[0].blocking, "{circle:#?}");

    let caa = of(&dns, "fine.caa.example.com").await;
    assert!(words(&caa).contains("Add CAA caa.example.com: 0 issue \"letsencrypt.org\"."), "{caa:#?}");
    assert!(of(&dns, "nocaa.example.com").await.problems.is_empty());
    assert!(words(&of(&dns, "*.nocaa.example.com").await).contains("issuewild"));
    let star = of(&dns, "*.star.example.com").await;
    assert!(star.points_here == Some(true) && star.name.ends_with(".star.example.com"), "{star:#?}");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test]
async fn servers_that_differ_fail_or_do_not_answer_are_told_apart() {
    if !(bind_is_there() && knot_is_there()) {
        return;
    }
    let second = free(Ipv4Addr::new(127, 0, 0, 2));
    let records =
        |address: &str| format!("@ NS ns2.example.com.\nns1 A 127.0.0.1\nns2 A 127.0.0.2\nshop A {address}");
    let (new, old) = (records("198.51.100.7"), records("203.0.113.9"));
    let zone = |records| ZoneFile { name: "example.com", records, rules: "" };
    let bind = NameServer::bind_at(second.port(), &[zone(&new)]);
    let knot = NameServer::knot_at(second, &zone(&old));
    // The resolver that lags is Knot, and it is one of the zone's servers, too.
    let (dns, _dir) = dns(vec![Resolver::At(knot.address), Resolver::At(bind.address)], second.port()).await;
    let report = of(&dns, "shop.example.com").await;
    assert!(words(&report).contains("The zone's own name servers differ"), "{report:#?}");
    assert!(words(&report).contains("TTL of 300 s"), "{report:#?}");

    // Nobody here serves this zone, and both say so.
    let refused = of(&dns, "shop.example.org").await;
    assert_eq!(refused.problems[0].kind, Kind::Broken, "{refused:#?}");
    drop((bind, knot));
    let began = Instant::now();
    let silent = of(&dns, "other.example.com").await;
    assert_eq!((silent.points_here, silent.problems[0].kind), (None, Kind::Unasked), "{silent:#?}");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}
