//! What the data plane shows to visitors and to authorities: certificates by name, and answers to challenges while an
//! order wants them. Every change is a new table, swapped whole.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard},
};

use berth_proxy::{CertificateSource, CertificateTable, ChallengeTable, ProxyHandle, certified_key};
use berth_schemas::DomainName;
use berth_store::CertificateRow;
use rustls::sign::CertifiedKey;

use crate::{config::Fallback, lock::lock};

/// What is shown.
pub(crate) struct Shown {
    proxy: ProxyHandle,
    fallback: Option<Fallback>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    certificates: BTreeMap<DomainName, (String, Arc<CertifiedKey>)>,
    /// Certificates of TLS-ALPN-01 with their keys, by host.
    tls: HashMap<String, (String, String)>,
    /// Answers to HTTP-01, by token.
    http: HashMap<String, String>,
}

/// An answer that is given until this is dropped.
pub(crate) struct Answering {
    shown: Arc<Shown>,
    what: Answer,
}

enum Answer {
    Http(String),
    /// Host and chain.
    Tls(String, String),
}

/// A certificate that is shown to see whether who asks under a host comes here.
pub(crate) struct Probing {
    shown: Arc<Shown>,
    host: String,
    chain: String,
    _answering: Option<Answering>,
}

impl Shown {
    pub(crate) fn new(proxy: ProxyHandle, fallback: Option<Fallback>) -> Self {
        Self { proxy, fallback, state: Mutex::default() }
    }

    /// Shows these certificates and no others. One that cannot be used is told in the log and left out.
    pub(crate) fn set_certificates(&self, all: Vec<(CertificateRow, String)>) {
        let mut state = self.lock();
        let mut next = BTreeMap::new();
        for (row, key) in all {
            let known = state.certificates.remove(&row.name).filter(|(print, _)| *print == row.fingerprint);
            let certified = match known {
                Some((_, certified)) => certified,
                None => match certified_key(row.name.as_str(), &row.chain, &key) {
                    Ok(certified) => certified,
                    Err(error) => {
                        tracing::error!(%error, "a certificate cannot be used");
                        continue;
                    }
                },
            };
            next.insert(row.name, (row.fingerprint, certified));
        }
        state.certificates = next;
        self.publish(&state);
    }

    /// The certificate that is shown for this very name.
    pub(crate) fn certificate(&self, name: &DomainName) -> Option<Arc<CertifiedKey>> {
        self.lock().certificates.get(name).map(|(_, key)| Arc::clone(key))
    }

    /// Where the data plane gets what is not shown yet.
    pub(crate) fn set_source(&self, source: Arc<dyn CertificateSource>) {
        self.proxy.set_certificate_source(Some(source));
    }

    /// Answers an HTTP-01 challenge.
    pub(crate) fn answer_http(self: &Arc<Self>, token: &str, answer: &str) -> Answering {
        let mut state = self.lock();
        state.http.insert(token.to_owned(), answer.to_owned());
        self.publish_http(&state);
        Answering { shown: Arc::clone(self), what: Answer::Http(token.to_owned()) }
    }

    /// Shows a certificate to who asks for a TLS-ALPN-01 challenge.
    pub(crate) fn answer_tls(self: &Arc<Self>, host: &str, chain: String, key: String) -> Answering {
        let mut state = self.lock();
        state.tls.insert(host.to_owned(), (chain.clone(), key));
        self.publish(&state);
        Answering { shown: Arc::clone(self), what: Answer::Tls(host.to_owned(), chain) }
    }

    /// Shows a certificate as [`Self::answer_tls`] does, unless an order shows one of its own: then that is looked for.
    pub(crate) fn probe_tls(self: &Arc<Self>, host: &str, chain: String, key: String) -> Probing {
        let busy = self.lock().tls.contains_key(host);
        let answering = (!busy).then(|| self.answer_tls(host, chain.clone(), key));
        Probing { shown: Arc::clone(self), host: host.to_owned(), chain, _answering: answering }
    }

    fn publish(&self, state: &State) {
        let mut table = CertificateTable::builder();
        for (name, (_, key)) in &state.certificates {
            table = table.key(name.as_str(), Arc::clone(key));
        }
        let more = state
            .tls
            .iter()
            .try_fold(table, |table, (host, (chain, key))| table.challenge_pem(host, chain, key));
        let more = more.and_then(|table| match &self.fallback {
            Some(Fallback { chain, key }) => table.fallback_pem(chain, key),
            None => Ok(table),
        });
        match more {
            Ok(table) => self.proxy.set_certificates(table.build()),
            Err(error) => tracing::error!(%error, "the certificates could not be set; those before stay"),
        }
    }

    fn publish_http(&self, state: &State) {
        let table = state.http.iter().fold(ChallengeTable::new(), |table, (token, answer)| {
            table.with(token.as_str(), answer.as_str())
        });
        self.proxy.set_challenges(table);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Probing {
    /// Whether a certificate is the one that is shown for this.
    pub(crate) fn is(&self, der: &[u8]) -> bool {
        let now = self.shown.lock().tls.get(&self.host).map(|(chain, _)| chain.clone());
        [Some(&self.chain), now.as_ref()].into_iter().flatten().any(|chain| {
            x509_parser::pem::parse_x509_pem(chain.as_bytes()).is_ok_and(|(_, pem)| pem.contents == der)
        })
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        let mut state = self.shown.lock();
        match &self.what {
            Answer::Http(token) => {
                state.http.remove(token);
                self.shown.publish_http(&state);
            }
            Answer::Tls(host, chain) => {
                // Another answer may have taken its place.
                if state.tls.get(host).is_some_and(|(shown, _)| shown == chain) {
                    state.tls.remove(host);
                    self.shown.publish(&state);
                }
            }
        }
    }
}
