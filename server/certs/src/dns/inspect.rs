//! Asking name servers what they say of a name: several resolvers and the zone's own servers, all at once, within a
//! few seconds. What it means is decided in [`super::judge`].

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use berth_schemas::{
    DomainName, Timestamp,
    dns::{DnsReport, DnsView},
};
use futures_util::future::join_all;
use hickory_proto::{
    op::ResponseCode,
    rr::{Name, RData, RecordType},
};

use super::{
    ask::{Answer, NoAnswer, full_name},
    judge::{Caa, CaaRecord, Facts, Said, View, judge},
    record::plain,
    resolvers::{Resolvers, Server, address_of},
};

/// How long one question may take.
const LIMIT: Duration = Duration::from_millis(1500);
/// How long the zone's own servers are looked for and asked.
const OWN_LIMIT: Duration = Duration::from_millis(4500);
/// Records of one answer that are looked at.
const MOST_RECORDS: usize = 64;

/// Asks about `name`. `issuers` are the names by which CAA records allow the certificate authorities in use.
pub(crate) async fn inspect(
    resolvers: &Resolvers,
    name: &DomainName,
    expected: &[IpAddr],
    issuers: &[String],
) -> DnsReport {
    let asked = match name.is_wildcard() {
        // A random one: a fixed one could exist, and its absence would be kept by resolvers.
        true => format!("berth-{}.{}", &uuid::Uuid::new_v4().simple().to_string()[..8], name.base()),
        false => name.as_str().to_owned(),
    };
    let servers = resolvers.servers();
    let ours = async {
        let own = async {
            let authority = resolvers.authority(&asked).await.ok()?;
            Some(views(resolvers, &authority.servers, &asked, true).await)
        };
        tokio::time::timeout(OWN_LIMIT, own).await.ok().flatten().unwrap_or_default()
    };
    let (own, theirs, caa) =
        tokio::join!(ours, views(resolvers, &servers, &asked, false), caa(resolvers, name.base()));
    let views: Vec<View> = own.into_iter().chain(theirs).collect();
    let facts = Facts {
        called: name.as_str(),
        expected,
        views: &views,
        caa: &caa,
        wildcard: name.is_wildcard(),
        issuers,
    };
    let (points_here, problems) = judge(&facts);
    DnsReport {
        name: asked,
        points_here,
        expected: expected.iter().map(ToString::to_string).collect(),
        problems,
        views: views.into_iter().map(shown).collect(),
        caa: match caa {
            Caa::Found { records, .. } => {
                records.iter().map(|r| format!("{} \"{}\"", r.tag, r.value).into()).collect()
            }
            _ => Vec::new(),
        },
        at: Timestamp::now(),
    }
}

async fn views(resolvers: &Resolvers, servers: &[Server], name: &str, own: bool) -> Vec<View> {
    join_all(servers.iter().map(async |server| View {
        server: server.label.clone(),
        own,
        said: said(resolvers, server, name, own).await,
    }))
    .await
}

/// What one server says of the name's addresses.
async fn said(resolvers: &Resolvers, server: &Server, name: &str, own: bool) -> Said {
    let Ok(asked) = full_name(name) else { return Said::Silent("it is no name".into()) };
    let (v4, v6) = tokio::join!(
        server.ask(&asked, RecordType::A, !own, LIMIT),
        server.ask(&asked, RecordType::AAAA, !own, LIMIT)
    );
    let (v4, v6) = match (v4, v6) {
        (Ok(v4), Ok(v6)) => (v4, v6),
        (Err(why), _) | (_, Err(why)) => return Said::Silent(why.to_string()),
    };
    if let Some(failed) = [&v4, &v6].into_iter().find(|answer| !answer.is_final()) {
        return Said::Failed(failed.code.to_str().to_owned());
    }
    let aliases = aliases(&v4, &asked);
    let mut answers = vec![v4, v6];
    if let Some(last) = aliases.last()
        && !answers.iter().any(|a| a.values(address_of).next().is_some())
    {
        // The alias leads out of what this server knows, or wants to tell.
        answers.extend(chase(resolvers, last).await);
    } else if answers.iter().any(|a| a.code == ResponseCode::NXDomain) {
        return Said::NoName;
    }
    let records = || answers.iter().flat_map(|a| a.answers.iter().take(MOST_RECORDS));
    let addresses: BTreeSet<IpAddr> = records().filter_map(|r| address_of(&r.data)).collect();
    Said::Exists { addresses, aliases, ttl: records().map(|r| r.ttl).min().unwrap_or_default() }
}

/// The names that `asked` is an alias of, in order.
fn aliases(answer: &Answer, asked: &Name) -> Vec<String> {
    let mut at = asked.clone();
    let mut aliases = Vec::new();
    while aliases.len() < 8 {
        let next = answer.answers.iter().find_map(|r| match &r.data {
            RData::CNAME(to) if r.name == at => Some(to.0.clone()),
            _ => None,
        });
        let Some(next) = next else { break };
        aliases.push(plain(&next.to_ascii()));
        at = next;
    }
    aliases
}

/// What resolvers say of the name that an alias leads to.
async fn chase(resolvers: &Resolvers, name: &str) -> Vec<Answer> {
    let Ok(name) = full_name(name) else { return Vec::new() };
    let (v4, v6) =
        tokio::join!(resolvers.find(&name, RecordType::A), resolvers.find(&name, RecordType::AAAA));
    [v4, v6].into_iter().flatten().collect()
}

/// The CAA records that count: those of the nearest name, from `name` upwards, that has some (RFC 8659, 3).
async fn caa(resolvers: &Resolvers, name: &str) -> Caa {
    let names: Vec<&str> =
        std::iter::successors(Some(name), |n| n.split_once('.').map(|(_, parent)| parent)).collect();
    let found = join_all(names.iter().map(|name| caa_at(resolvers, name))).await;
    for (name, found) in names.iter().zip(found) {
        match found {
            Ok(records) if records.is_empty() => {}
            Ok(records) => return Caa::Found { at: (*name).to_owned(), records },
            Err(Some(code)) => return Caa::Failed(code),
            // Nobody could be asked, or would answer us: that is said elsewhere.
            Err(None) => {}
        }
    }
    Caa::None
}

/// The CAA records of one name; the response code of who could not say.
async fn caa_at(resolvers: &Resolvers, name: &str) -> Result<Vec<CaaRecord>, Option<String>> {
    let asked = full_name(name).map_err(|_| None)?;
    let answer = match resolvers.find(&asked, RecordType::CAA).await {
        Ok(answer) => answer,
        Err(NoAnswer::Failed(code)) if code == ResponseCode::ServFail.to_str() => return Err(Some(code)),
        Err(_) => return Err(None),
    };
    let records = answer.values(|data| match data {
        RData::CAA(caa) => Some(CaaRecord {
            critical: caa.issuer_critical,
            tag: caa.tag.clone(),
            value: String::from_utf8_lossy(&caa.value).into_owned(),
        }),
        _ => None,
    });
    Ok(records.take(MOST_RECORDS).collect())
}

fn shown(view: View) -> DnsView {
    let (mut addresses, mut aliases, mut ttl_s, mut trouble) = (Vec::new(), Vec::new(), None, None);
    match view.said {
        Said::Exists { addresses: found, aliases: names, ttl } => {
            addresses = found.iter().map(ToString::to_string).collect();
            aliases = names.into_iter().map(Into::into).collect();
            ttl_s = Some(ttl);
        }
        Said::NoName => trouble = Some("there is no such name".to_owned()),
        Said::Failed(code) => trouble = Some(code),
        Said::Silent(why) => trouble = Some(why),
    }
    DnsView { server: view.server.into(), own: view.own, addresses, aliases, ttl_s, trouble }
}
