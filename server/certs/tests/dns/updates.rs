//! Dynamic updates and proofs, against BIND.

use std::{net::Ipv4Addr, time::Duration};

use berth_certs::dns::{Dns, DnsConfig, DnsFault, Presented, Record, Resolver, connect, trial};
use berth_schemas::{
    Code, DomainName,
    dns::{DnsCredentials, TsigAlgorithm},
};
use berth_store::{MasterKey, NewDnsProvider, Principal, Store, StoreConfig};

use crate::servers::{ALLOW, KEY, NameServer, ZoneFile, bind_is_there, free, knot_is_there};

fn key(server: impl ToString, name: &str, secret: &str) -> DnsCredentials {
    DnsCredentials::Rfc2136 {
        server: server.to_string(),
        tsig_name: name.into(),
        tsig_secret: secret.into(),
        tsig_algorithm: TsigAlgorithm::HmacSha256,
    }
}

fn names(list: &[&str]) -> Vec<DomainName> {
    list.iter().map(|n| n.parse().unwrap()).collect()
}

#[tokio::test]
async fn values_under_one_name_come_and_go_one_by_one() {
    if !bind_is_there() {
        return;
    }
    let zone = ZoneFile { name: "example.com", records: "_acme-challenge TXT \"theirs\"", rules: ALLOW };
    let bind = NameServer::bind(&[zone]);
    let provider = connect(&key(bind.address, "berth", KEY), &names(&["shop.example.com"])).unwrap();
    let name = "_acme-challenge.shop.example.com";
    let zone = provider.zone_of(name).await.unwrap();
    assert_eq!(zone.id, "example.com", "the zone that the server has, not the name that was told");
    let (one, two) = (Record::txt(name, "one"), Record::txt(name, "two \"quoted\""));
    for _ in 0..2 {
        provider.add(&zone, &one).await.unwrap();
        provider.add(&zone, &two).await.unwrap();
    }
    assert_eq!(bind.texts(name).await, ["\"one\"", "\"two \\\"quoted\\\"\""]);
    for _ in 0..2 {
        provider.remove(&zone, &one).await.unwrap();
    }
    assert_eq!(bind.texts(name).await, ["\"two \\\"quoted\\\"\""]);
    provider.remove(&zone, &two).await.unwrap();
    assert!(bind.texts(name).await.is_empty());
    assert_eq!(bind.texts("_acme-challenge.example.com").await, ["\"theirs\""]);
}

#[tokio::test]
async fn keys_that_do_not_fit_are_refused_in_words() {
    if !bind_is_there() {
        return;
    }
    let zone = ZoneFile { name: "example.com", records: "", rules: ALLOW };
    let bind = NameServer::bind(&[zone]);
    let told = names(&["example.com"]);
    let tried =
        async |name: &str, secret: &str| trial::try_out(&key(bind.address, name, secret), &told).await;
    assert_eq!(tried("berth", KEY).await.unwrap().zones, ["example.com"]);
    assert!(bind.texts("_acme-challenge.example.com").await.is_empty(), "the trial leaves nothing behind");
    let said = |fault: DnsFault| match fault {
        DnsFault::Refused { said, .. } => said,
        other => panic!("{other:?}"),
    };
    assert!(said(tried("berth", "d3Jvbmc=").await.unwrap_err()).contains("BadSig"));
    assert!(said(tried("nobody", KEY).await.unwrap_err()).contains("BadKey"));
    assert!(said(tried("stranger", KEY).await.unwrap_err()).contains("REFUSED"));
    let elsewhere =
        trial::try_out(&key(bind.address, "berth", KEY), &names(&["example.org"])).await.unwrap_err();
    assert!(matches!(elsewhere, DnsFault::Rejected { .. }), "{elsewhere:?}");
    let nobody = free(Ipv4Addr::LOCALHOST);
    let silent = trial::try_out(&key(nobody, "berth", KEY), &told).await.unwrap_err();
    assert!(silent.is_passing(), "{silent:?}");
}

/// A store and DNS that asks these servers.
async fn dns(bind: &NameServer) -> (Dns, Store, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig { data_dir: dir.path().to_owned(), database_url: None };
    let store = Store::open(config, MasterKey::load_or_create(dir.path()).unwrap()).await.unwrap();
    let config = DnsConfig {
        authority_port: bind.address.port(),
        ..DnsConfig::new(vec![Resolver::At(bind.address)], |_| true)
    };
    (Dns::new(store.clone(), config), store, dir)
}

async fn add(store: &Store, name: &str, credentials: DnsCredentials, zones: &[&str]) {
    let new = NewDnsProvider {
        name: name.parse().unwrap(),
        credentials,
        zones: names(zones),
        found: false,
        replace: false,
    };
    store.dns_providers().put(&Principal::daemon(), new).await.unwrap();
}

#[tokio::test]
async fn a_proof_is_set_seen_and_withdrawn() {
    if !bind_is_there() {
        return;
    }
    let zones = [
        ZoneFile {
            name: "example.com",
            records: "_acme-challenge.away CNAME away.proofs.example.net.",
            rules: ALLOW,
        },
        ZoneFile { name: "proofs.example.net", records: "", rules: ALLOW },
    ];
    let bind = NameServer::bind(&zones);
    let (dns, store, _dir) = dns(&bind).await;
    let name = |text: &str| text.parse::<DomainName>().unwrap();
    let limit = Duration::from_secs(10);
    let nobody = dns.present(&name("*.example.com"), "v", limit).await.unwrap_err();
    assert!(nobody.code == Code::NotFound && nobody.to_string().contains("dns_provider_add"), "{nobody}");

    add(&store, "own", key(bind.address, "berth", KEY), &["example.com", "proofs.example.net"]).await;
    // Both want a record of the same name at the same time, as a certificate for both does.
    let (star, bare) = (name("*.example.com"), name("example.com"));
    let (one, two) = tokio::join!(dns.present(&star, "one", limit), dns.present(&bare, "two", limit));
    assert_eq!((one.unwrap(), two.unwrap()), (Presented::Shown, Presented::Shown));
    assert_eq!(bind.texts("_acme-challenge.example.com").await, ["\"one\"", "\"two\""]);
    dns.withdraw(&star, "one").await.unwrap();
    assert_eq!(bind.texts("_acme-challenge.example.com").await, ["\"two\""]);

    assert_eq!(dns.prover(&name("away.example.com")).await.unwrap().unwrap().name.as_str(), "own");
    assert_eq!(dns.present(&name("away.example.com"), "far", limit).await.unwrap(), Presented::Shown);
    assert_eq!(bind.texts("away.proofs.example.net").await, ["\"far\""]);
    dns.withdraw(&name("away.example.com"), "far").await.unwrap();
    assert!(bind.texts("away.proofs.example.net").await.is_empty());
}

#[tokio::test]
async fn a_server_that_lags_behind_is_waited_for_and_named() {
    if !(bind_is_there() && knot_is_there()) {
        return;
    }
    let second = free(Ipv4Addr::new(127, 0, 0, 2));
    let zone =
        || ZoneFile { name: "example.com", records: "@ NS ns2.example.com.\nns2 A 127.0.0.2", rules: ALLOW };
    let (bind, lagging) =
        (NameServer::bind_at(second.port(), &[zone()]), NameServer::knot_at(second, &zone()));
    let (dns, store, _dir) = dns(&bind).await;
    add(&store, "own", key(bind.address, "berth", KEY), &["example.com"]).await;
    let star: DomainName = "*.example.com".parse().unwrap();
    let seen = dns.present(&star, "proof", Duration::ZERO).await.unwrap();
    let words = seen.waits_for().unwrap();
    assert!(words.contains("not shown by ns2.example.com"), "{words}");

    let late = connect(&key(lagging.address, "berth", KEY), &names(&["example.com"])).unwrap();
    let record = Record::txt("_acme-challenge.example.com", "proof");
    let follow = async {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        late.add(&late.zone_of(&record.name).await.unwrap(), &record).await.unwrap();
    };
    let (seen, ()) = tokio::join!(dns.present(&star, "proof", Duration::from_secs(20)), follow);
    assert_eq!(seen.unwrap(), Presented::Shown);

    // One that does not answer at all does not hold up the others.
    drop(lagging);
    dns.present(&star, "again", Duration::ZERO).await.map(|p| assert_eq!(p, Presented::Shown)).unwrap();
}

#[tokio::test]
async fn by_hand_it_says_what_to_set_and_goes_on_when_it_is_there() {
    if !bind_is_there() {
        return;
    }
    let zone = ZoneFile { name: "example.com", records: "", rules: ALLOW };
    let bind = NameServer::bind(&[zone]);
    let (dns, store, _dir) = dns(&bind).await;
    add(&store, "me", DnsCredentials::Manual {}, &["example.com"]).await;
    let star: DomainName = "*.example.com".parse().unwrap();
    let words = dns.present(&star, "proof-1", Duration::from_secs(60)).await.unwrap().waits_for().unwrap();
    assert!(words.contains("_acme-challenge.example.com") && words.contains("proof-1"), "{words}");
    let person = connect(&key(bind.address, "berth", KEY), &names(&["example.com"])).unwrap();
    let record = Record::txt("_acme-challenge.example.com", "proof-1");
    person.add(&person.zone_of(&record.name).await.unwrap(), &record).await.unwrap();
    assert_eq!(dns.present(&star, "proof-1", Duration::ZERO).await.unwrap(), Presented::Shown);
}
