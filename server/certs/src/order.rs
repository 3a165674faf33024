//! One order, carried from `pending` to `valid`. Each state is committed before the work in it begins, so that an
//! order which a crash interrupted goes on where it was: with the same order at the authority and the same key.

use std::{sync::Arc, time::Duration};

use berth_schemas::{
    Timestamp,
    domain::{ChallengeKind, OrderState, OrderTrouble},
};
use berth_store::{Fault, OrderRow, StoreError, stall};
use instant_acme::{
    AuthorizationStatus, CertificateIdentifier, ChallengeStatus, ChallengeType, Identifier, NewOrder, Order,
    OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};

use crate::{
    account::Ca,
    config::AcmeConfig,
    decide::{self, later},
    fault::{BAD_NONCE, Stop, is_about_replaces, of_problem, stop_of},
    service::{Inner, Wanted, spread},
    shown::Answering,
    x509::Leaf,
};

/// An authority has so long to look before the order is left alone for a while.
const AUTHORIZE_LIMIT: Duration = Duration::from_secs(180);
/// Between looks at what an authority has found; it grows.
const POLL: Duration = Duration::from_millis(500);
/// Longest pause between looks.
const POLL_MOST: Duration = Duration::from_secs(5);
/// An authority has so long to issue before the order is left alone for a while.
const ISSUE_LIMIT: Duration = Duration::from_secs(60);
/// An order that was placed and does not go on is given up after this.
const GIVE_UP: Duration = Duration::from_secs(3600);
/// The same where somebody may have to set a record by hand.
const GIVE_UP_DNS: Duration = Duration::from_secs(24 * 3600);
/// An authority that refuses nonces for so long is not asked any further for an order that it has not taken yet.
const NONCES: Duration = Duration::from_secs(60);
/// Shortest and longest pause of an order that does not go on.
const PAUSE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(300));

impl Inner {
    /// Works on an order until it is over or has to wait.
    pub(crate) async fn work_on(self: &Arc<Self>, acme: &AcmeConfig, wanted: &Wanted, mut row: OrderRow) {
        loop {
            let outcome = match row.state {
                OrderState::Pending => self.place(acme, wanted, &row).await,
                OrderState::Authorizing => self.authorize(acme, &row).await,
                OrderState::Ready => self.prepare(&row).await,
                OrderState::Finalizing => self.finalize(acme, wanted, &row).await,
                OrderState::Valid | OrderState::Failed | OrderState::Cancelled => return,
            };
            row = match outcome {
                Ok(row) => {
                    stall::after(&format!("order_{}", row.state.as_str())).await;
                    row
                }
                Err(stop) => return self.stopped_by(wanted, &row, stop).await,
            };
        }
    }

    /// Notes why an order does not go on, and when what is tried next.
    async fn stopped_by(&self, wanted: &Wanted, row: &OrderRow, stop: Stop) {
        let now = self.now();
        let (fault, trouble, not_before) = match stop {
            Stop::Failed { fault, trouble, not_before } => (fault, trouble, not_before),
            Stop::Later { trouble, not_before } if later(row.created_at, patience(row, &trouble)) <= now => {
                (Fault::Unreachable, trouble, not_before)
            }
            Stop::Later { trouble, not_before } => {
                let age = Duration::from_micros(u64::try_from(now.0 - row.created_at.0).unwrap_or(0));
                let until = later(now, (age / 4).clamp(PAUSE.0, PAUSE.1)).max(not_before.unwrap_or(now));
                tracing::info!(name = %row.name, kind = trouble.kind, detail = trouble.detail.0, "an order waits");
                self.noted(self.store.acme().stumble(row.id, trouble, not_before, until).await);
                return;
            }
            Stop::Waits => return,
            Stop::Store(StoreError::Stale { .. } | StoreError::NotFound { .. }) => return,
            Stop::Store(error) => {
                return tracing::warn!(%error, name = %row.name, "an order could not be noted");
            }
        };
        tracing::warn!(name = %row.name, kind = trouble.kind, detail = trouble.detail.0, "an order failed");
        let next = self.after_failure(wanted, row, fault, not_before, now).await;
        let failed = self.store.acme().failed_until(row.id, wanted.app, fault, trouble, not_before, next);
        self.noted(failed.await.map(drop));
    }

    fn noted(&self, outcome: Result<(), StoreError>) {
        match outcome {
            Ok(()) | Err(StoreError::Stale { .. }) => {}
            Err(error) => tracing::warn!(%error, "the state of an order could not be noted"),
        }
    }

    /// `pending` → `authorizing`.
    async fn place(&self, acme: &AcmeConfig, wanted: &Wanted, row: &OrderRow) -> Result<OrderRow, Stop> {
        self.ready_to_ask(row).await?;
        let ca = self.ca(acme, &row.directory).await?;
        let identifiers = [Identifier::Dns(row.name.to_string())];
        let replaces = match row.renewal {
            true => self.replaces(row).await?,
            false => None,
        };
        let new = NewOrder::new(&identifiers);
        let placed = match &replaces {
            Some(id) => match ca.account.new_order(&NewOrder::new(&identifiers).replaces(id.clone())).await {
                Ok(order) => Ok(order),
                // It knows no renewal information, or that certificate was replaced already.
                Err(error) if is_about_replaces(&error) => ca.account.new_order(&new).await,
                Err(error) => Err(error),
            },
            None => ca.account.new_order(&new).await,
        };
        let order = match placed {
            Ok(order) => order,
            Err(error) => return Err(self.lost_account(&ca, row, error).await),
        };
        tracing::debug!(name = %row.name, app = ?wanted.app, url = order.url(), "placed an order");
        Ok(self.store.acme().placed(row.id, order.url()).await?)
    }

    /// An authority that has forgotten us gets a new account next time.
    async fn lost_account(&self, ca: &Ca, row: &OrderRow, error: instant_acme::Error) -> Stop {
        let stop = stop_of(error, &ca.come_again, self.now());
        if let Stop::Failed { trouble, .. } = &stop
            && trouble.kind == "accountDoesNotExist"
        {
            self.noted(self.store.acme().forget_account(&row.directory).await);
            return Stop::Later { trouble: trouble.clone(), not_before: None };
        }
        stop
    }

    /// The certificate that an order replaces, as its authority knows it.
    async fn replaces(&self, row: &OrderRow) -> Result<Option<CertificateIdentifier<'static>>, Stop> {
        let Some(old) = self.store.certificates().by_name(&row.name).await? else { return Ok(None) };
        if old.directory.as_ref() != Some(&row.directory) {
            return Ok(None);
        }
        Ok(identifier(&old.chain))
    }

    /// `authorizing` → `ready`: answers the authority's challenges until it has looked.
    async fn authorize(self: &Arc<Self>, acme: &AcmeConfig, row: &OrderRow) -> Result<OrderRow, Stop> {
        let ca = self.ca(acme, &row.directory).await?;
        let mut order = self.order(&ca, row).await?;
        if order.state().status == OrderStatus::Pending {
            let answers = self.answer(&ca, &mut order, row).await?;
            let looked = tokio::time::timeout(AUTHORIZE_LIMIT, self.until_looked(&ca, &mut order)).await;
            // Given until here.
            for value in answers.iter().filter_map(Given::record) {
                self.withdraw(&row.name, value).await;
            }
            drop(answers);
            looked.map_err(|_| {
                Stop::unreachable("timeout", "The authority has not looked yet.", self.now())
            })??;
        }
        match order.state().status {
            OrderStatus::Invalid => Err(self.invalid(&mut order)),
            _ => Ok(self.store.acme().ready(row.id).await?),
        }
    }

    async fn order(&self, ca: &Ca, row: &OrderRow) -> Result<Order, Stop> {
        let url = row.url.clone().unwrap_or_default();
        ca.account.order(url).await.map_err(|e| stop_of(e, &ca.come_again, self.now()))
    }

    /// Puts the answers in place and tells the authority to look.
    async fn answer(
        self: &Arc<Self>,
        ca: &Ca,
        order: &mut Order,
        row: &OrderRow,
    ) -> Result<Vec<Given>, Stop> {
        let said = |error| stop_of(error, &ca.come_again, self.now());
        let mut answers = Vec::new();
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(said)?;
            match authorization.status {
                AuthorizationStatus::Valid => continue,
                AuthorizationStatus::Pending => {}
                _ => continue,
            }
            let mut challenge = authorization.challenge(type_of(row.challenge)).ok_or_else(|| {
                let detail = format!("The authority offers no {} for {}.", row.challenge.as_str(), row.name);
                Stop::failed(Fault::Unprepared, "no_challenge", detail, self.now())
            })?;
            let authorized = challenge.key_authorization();
            answers.push(match row.challenge {
                ChallengeKind::Http01 => {
                    Given::Here(self.shown.answer_http(&challenge.token, authorized.as_str()))
                }
                ChallengeKind::TlsAlpn01 => {
                    let (chain, key) = challenge_certificate(row.name.as_str(), authorized.digest().as_ref())
                        .map_err(|e| self.own_fault(&e))?;
                    Given::Here(self.shown.answer_tls(row.name.as_str(), chain, key))
                }
                ChallengeKind::Dns01 => {
                    let value = authorized.dns_value();
                    self.present(&row.name, &value).await?;
                    Given::InDns(value)
                }
            });
            if challenge.status == ChallengeStatus::Pending {
                challenge.set_ready().await.map_err(said)?;
            }
        }
        Ok(answers)
    }

    fn own_fault(&self, error: &rcgen::Error) -> Stop {
        Stop::failed(Fault::Unprepared, "internal", error.to_string(), self.now())
    }

    /// Waits until the authority has looked at everything.
    async fn until_looked(&self, ca: &Ca, order: &mut Order) -> Result<(), Stop> {
        let mut pause = POLL;
        loop {
            tokio::time::sleep(pause).await;
            pause = (pause * 3 / 2).min(POLL_MOST);
            let status = order.refresh().await.map_err(|e| stop_of(e, &ca.come_again, self.now()))?.status;
            if status != OrderStatus::Pending {
                if status == OrderStatus::Invalid {
                    self.refresh_authorizations(ca, order).await?;
                }
                return Ok(());
            }
        }
    }

    async fn refresh_authorizations(&self, ca: &Ca, order: &mut Order) -> Result<(), Stop> {
        let said = |error| stop_of(error, &ca.come_again, self.now());
        let mut authorizations = order.authorizations();
        let mut why = None;
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(said)?;
            let state = authorization.refresh().await.map_err(said)?;
            why = why.or_else(|| state.challenges.iter().find_map(|c| c.error.clone()));
        }
        match why {
            Some(problem) => Err(of_validation(&problem, self.now())),
            None => Ok(()),
        }
    }

    /// Why an order is invalid.
    fn invalid(&self, order: &mut Order) -> Stop {
        match &order.state().error {
            Some(problem) => of_validation(problem, self.now()),
            None => Stop::failed(
                Fault::Validation,
                "unauthorized",
                "The authority has given the order up and does not say why.",
                self.now(),
            ),
        }
    }

    /// `ready` → `finalizing`: makes the key and keeps it before the certificate is asked for.
    async fn prepare(&self, row: &OrderRow) -> Result<OrderRow, Stop> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(|e| self.own_fault(&e))?;
        Ok(self.store.acme().finalizing(row.id, &key.serialize_pem()).await?)
    }

    /// `finalizing` → `valid`.
    async fn finalize(&self, acme: &AcmeConfig, wanted: &Wanted, row: &OrderRow) -> Result<OrderRow, Stop> {
        let ca = self.ca(acme, &row.directory).await?;
        let said = |error| stop_of(error, &ca.come_again, self.now());
        let key = self.store.acme().key(row.id).await?;
        let mut order = self.order(&ca, row).await?;
        match order.state().status {
            OrderStatus::Ready => {
                let request = request(row.name.as_str(), &key).map_err(|e| self.own_fault(&e))?;
                order.finalize_csr(&request).await.map_err(said)?;
                stall::after("order_asked").await;
            }
            OrderStatus::Invalid | OrderStatus::Pending => return Err(self.invalid(&mut order)),
            OrderStatus::Processing | OrderStatus::Valid => {}
        }
        let patience = RetryPolicy::new().timeout(ISSUE_LIMIT);
        let chain = order.poll_certificate(&patience).await.map_err(said)?;
        let wrong = |detail: String| Stop::refused("badCertificate", detail, self.now());
        let leaf = Leaf::read(&chain).map_err(wrong)?;
        if !leaf.covers(&row.name) {
            return Err(wrong(format!("The authority's certificate is not for {}.", row.name)));
        }
        berth_proxy::certified_key(row.name.as_str(), &chain, &key).map_err(|e| wrong(e.to_string()))?;
        let renew_at = decide::renewal(leaf.not_before, leaf.not_after, spread());
        let certificate = leaf.kept(chain, key, Some(renew_at));
        let row = self.store.acme().issued(row.id, wanted.app, certificate).await?;
        tracing::info!(name = %row.name, directory = row.directory, "a certificate came");
        if let Err(error) = self.load().await {
            tracing::warn!(%error, "the new certificate could not be loaded yet");
        }
        Ok(row)
    }
}

/// An answer to a challenge, as long as it is given.
enum Given {
    /// By the data plane, until it is dropped.
    Here(#[expect(dead_code, reason = "it is given until it is dropped")] Answering),
    /// By a TXT record with this value.
    InDns(String),
}

impl Given {
    fn record(&self) -> Option<&str> {
        match self {
            Self::Here(_) => None,
            Self::InDns(value) => Some(value),
        }
    }
}

/// How old an order may become before something that passes ends it.
fn patience(row: &OrderRow, trouble: &OrderTrouble) -> Duration {
    match row.state {
        OrderState::Pending if trouble.kind == BAD_NONCE => NONCES,
        // What was not placed yet costs nothing: another authority may have it.
        OrderState::Pending => Duration::ZERO,
        _ if row.challenge == ChallengeKind::Dns01 => GIVE_UP_DNS,
        _ => GIVE_UP,
    }
}

/// An error of an order or a challenge means that the authority was not convinced, unless it says otherwise.
fn of_validation(problem: &instant_acme::Problem, at: Timestamp) -> Stop {
    match of_problem(problem, None, at) {
        Stop::Later { trouble, not_before } => Stop::Failed { fault: Fault::Validation, trouble, not_before },
        stop => stop,
    }
}

fn type_of(kind: ChallengeKind) -> ChallengeType {
    match kind {
        ChallengeKind::Http01 => ChallengeType::Http01,
        ChallengeKind::TlsAlpn01 => ChallengeType::TlsAlpn01,
        ChallengeKind::Dns01 => ChallengeType::Dns01,
    }
}

/// How an authority knows a certificate (RFC 9773, 4.1).
pub(crate) fn identifier(chain: &str) -> Option<CertificateIdentifier<'static>> {
    use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
    let (key, serial) = Leaf::read(chain).ok()?.ari?;
    Some(CertificateIdentifier {
        authority_key_identifier: BASE64.encode(key).into(),
        serial: BASE64.encode(serial).into(),
    })
}

/// The certificate that answers TLS-ALPN-01 (RFC 8737, 3), with its key.
pub(crate) fn challenge_certificate(host: &str, digest: &[u8]) -> Result<(String, String), rcgen::Error> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::new(vec![host.to_owned()])?;
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    Ok((params.self_signed(&key)?.pem(), key.serialize_pem()))
}

/// The request for a certificate (RFC 2986), with the name as its only content.
fn request(name: &str, key: &str) -> Result<Vec<u8>, rcgen::Error> {
    let key = KeyPair::from_pem(key)?;
    let mut params = CertificateParams::new(vec![name.to_owned()])?;
    params.distinguished_name = DistinguishedName::new();
    Ok(params.serialize_request(&key)?.der().to_vec())
}
