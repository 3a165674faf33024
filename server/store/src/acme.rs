//! What is asked of certificate authorities: accounts and orders. Every state of an order is committed before the
//! work in it begins; keys of accounts and of certificates on order are sealed.

use berth_schemas::{
    DomainName, Timestamp,
    domain::{ChallengeKind, OrderState, OrderTrouble},
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::{Row, any::AnyRow};

use crate::{
    certificates::{NewCertificate, Origin, put},
    database::{assembled, storable},
    error::{Result, StoreError},
    model::{AppId, NewEvent, Principal},
    row,
    seal::Place,
    store::Inner,
    write::Write,
};

const SELECT: &str = "SELECT id, name, directory, challenge, renewal, state, url, trouble, fault,
    next_try_at, created_at, updated_at FROM orders";

/// Longest error of an authority that is kept, in bytes.
const MAX_TROUBLE: usize = 4096;

/// Row id of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OrderId(pub i64);

/// What kind of failure ended an order; decides what is tried next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The authority asked, and was not shown that the name is ours.
    Validation,
    /// The authority does not issue for this name or this account.
    Refused,
    /// The authority wants fewer requests.
    Limited,
    /// The authority does not answer, or not sensibly.
    Unreachable,
    /// What the challenge needs was not to be had here.
    Unprepared,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Validation, Self::Refused, Self::Limited, Self::Unreachable, Self::Unprepared];

    fn as_str(self) -> &'static str {
        match self {
            Self::Validation => "validation",
            Self::Refused => "refused",
            Self::Limited => "limited",
            Self::Unreachable => "unreachable",
            Self::Unprepared => "unprepared",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|fault| fault.as_str() == text)
    }
}

/// An order.
#[derive(Debug, Clone, PartialEq)]
pub struct OrderRow {
    /// Row id.
    pub id: OrderId,
    /// The name that a certificate is ordered for.
    pub name: DomainName,
    /// The authority's directory.
    pub directory: String,
    /// How it is shown that the name is ours.
    pub challenge: ChallengeKind,
    /// Whether there is a certificate that it is to replace.
    pub renewal: bool,
    /// Where it stands.
    pub state: OrderState,
    /// Where it lives at the authority, once it was placed.
    pub url: Option<String>,
    /// The last error.
    pub trouble: Option<OrderTrouble>,
    /// With that error, its authority said not to come before.
    pub not_before: Option<Timestamp>,
    /// What kind of failure ended it.
    pub fault: Option<Fault>,
    /// When something is tried next: with this order, or with another one if this one failed.
    pub next_try_at: Option<Timestamp>,
    /// When it was begun.
    pub created_at: Timestamp,
    /// When it last moved.
    pub updated_at: Timestamp,
}

/// An error as it is kept, with what its authority said of the next visit.
#[derive(Serialize, Deserialize)]
struct Kept {
    #[serde(flatten)]
    trouble: OrderTrouble,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    not_before: Option<Timestamp>,
}

/// An order to be begun.
#[derive(Debug, Clone, PartialEq)]
pub struct NewOrder {
    /// The name.
    pub name: DomainName,
    /// The authority's directory.
    pub directory: String,
    /// How it is to be shown that the name is ours.
    pub challenge: ChallengeKind,
    /// Whether there is a certificate that it is to replace.
    pub renewal: bool,
}

/// Accounts and orders of a [`crate::Store`].
#[derive(Clone, Copy)]
pub struct Acme<'a>(pub(crate) &'a Inner);

impl Acme<'_> {
    /// Orders that are not over, and all that moved since, oldest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn recent(self, since: Timestamp) -> Result<Vec<OrderRow>> {
        let sql = format!(
            "{SELECT} WHERE updated_at >= $1 OR state IN ('pending', 'authorizing', 'ready', 'finalizing')
             ORDER BY id"
        );
        let rows = sqlx::query(assembled(sql)).bind(since.0).fetch_all(self.0.read()).await?;
        rows.iter().map(from_row).collect()
    }

    /// The newest orders for a name, newest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn of(self, name: &DomainName, limit: i64) -> Result<Vec<OrderRow>> {
        let sql = format!("{SELECT} WHERE name = $1 ORDER BY id DESC LIMIT $2");
        let rows = sqlx::query(assembled(sql))
            .bind(name.as_str().to_owned())
            .bind(limit)
            .fetch_all(self.0.read())
            .await?;
        rows.iter().map(from_row).collect()
    }

    /// The order with this id.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn get(self, id: OrderId) -> Result<Option<OrderRow>> {
        let sql = format!("{SELECT} WHERE id = $1");
        let row = sqlx::query(assembled(sql)).bind(id.0).fetch_optional(self.0.read()).await?;
        row.as_ref().map(from_row).transpose()
    }

    /// Begins an order. While one for the same name is not over, that one is returned instead.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn begin(self, new: NewOrder) -> Result<OrderRow> {
        let mut write = Write::begin(self.0).await?;
        let open = format!(
            "{SELECT} WHERE name = $1 AND state IN ('pending', 'authorizing', 'ready', 'finalizing')"
        );
        let open = sqlx::query(assembled(open))
            .bind(new.name.as_str().to_owned())
            .fetch_optional(write.conn())
            .await?;
        if let Some(row) = open {
            return from_row(&row);
        }
        let id: i64 = sqlx::query(
            "INSERT INTO orders (name, directory, challenge, renewal, state, created_at, updated_at)
             VALUES ($1, $2, $3, $4, 'pending', $5, $5) RETURNING id",
        )
        .bind(new.name.as_str().to_owned())
        .bind(new.directory)
        .bind(new.challenge.as_str().to_owned())
        .bind(i64::from(new.renewal))
        .bind(write.now.0)
        .fetch_one(write.conn())
        .await?
        .try_get("id")?;
        let row = get(&mut write, OrderId(id)).await?;
        write.commit().await?;
        Ok(row)
    }

    /// A pending order cannot go on yet: notes why, and when to look again.
    ///
    /// # Errors
    /// When it is not pending any more.
    pub async fn wait(self, id: OrderId, trouble: OrderTrouble, until: Timestamp) -> Result<OrderRow> {
        let mut write = Write::begin(self.0).await?;
        let row = get(&mut write, id).await?;
        if row.state != OrderState::Pending {
            return Err(stale(&row, OrderState::Pending));
        }
        sqlx::query("UPDATE orders SET trouble = $1, next_try_at = $2, updated_at = $3 WHERE id = $4")
            .bind(trouble_json(trouble, None)?)
            .bind(until.0)
            .bind(write.now.0)
            .bind(id.0)
            .execute(write.conn())
            .await?;
        let row = get(&mut write, id).await?;
        write.commit().await?;
        Ok(row)
    }

    /// Notes an error that does not end an order, and when to go on. Before `not_before` its authority does not want
    /// to be asked, whoever hurries.
    ///
    /// # Errors
    /// When it is over.
    pub async fn stumble(
        self,
        id: OrderId,
        trouble: OrderTrouble,
        not_before: Option<Timestamp>,
        until: Timestamp,
    ) -> Result<()> {
        let mut write = Write::begin(self.0).await?;
        let row = get(&mut write, id).await?;
        if row.state.is_settled() {
            return Err(stale(&row, OrderState::Authorizing));
        }
        sqlx::query("UPDATE orders SET trouble = $1, next_try_at = $2, updated_at = $3 WHERE id = $4")
            .bind(trouble_json(trouble, not_before)?)
            .bind(until.0)
            .bind(write.now.0)
            .bind(id.0)
            .execute(write.conn())
            .await?;
        write.commit().await
    }

    /// The authority has taken the order: `pending` → `authorizing`.
    ///
    /// # Errors
    /// When it is in another state.
    pub async fn placed(self, id: OrderId, url: &str) -> Result<OrderRow> {
        let mut write = Write::begin(self.0).await?;
        step(&mut write, id, OrderState::Pending, OrderState::Authorizing).await?;
        sqlx::query("UPDATE orders SET url = $1, trouble = NULL, next_try_at = NULL WHERE id = $2")
            .bind(url.to_owned())
            .bind(id.0)
            .execute(write.conn())
            .await?;
        let row = get(&mut write, id).await?;
        write.commit().await?;
        Ok(row)
    }

    /// The authority believes that the name is ours: `authorizing` → `ready`.
    ///
    /// # Errors
    /// When it is in another state.
    pub async fn ready(self, id: OrderId) -> Result<OrderRow> {
        let mut write = Write::begin(self.0).await?;
        step(&mut write, id, OrderState::Authorizing, OrderState::Ready).await?;
        let row = get(&mut write, id).await?;
        write.commit().await?;
        Ok(row)
    }

    /// Keeps the key of the certificate before it is asked for: `ready` → `finalizing`.
    ///
    /// # Errors
    /// When it is in another state.
    pub async fn finalizing(self, id: OrderId, key: &str) -> Result<OrderRow> {
        let mut write = Write::begin(self.0).await?;
        step(&mut write, id, OrderState::Ready, OrderState::Finalizing).await?;
        let row = id.0.to_string();
        let sealed = self.0.sealer.seal(&key_place(&row), key.as_bytes())?;
        sqlx::query("UPDATE orders SET sealed_key = $1 WHERE id = $2")
            .bind(sealed)
            .bind(id.0)
            .execute(write.conn())
            .await?;
        let row = get(&mut write, id).await?;
        write.commit().await?;
        Ok(row)
    }

    /// The key that was kept for an order, as PEM.
    ///
    /// # Errors
    /// When there is none, or it does not open.
    pub async fn key(self, id: OrderId) -> Result<String> {
        let row = sqlx::query("SELECT sealed_key FROM orders WHERE id = $1")
            .bind(id.0)
            .fetch_optional(self.0.read())
            .await?
            .ok_or_else(|| StoreError::not_found("order", id.0))?;
        let sealed: Option<String> = row.try_get("sealed_key")?;
        let sealed = sealed.ok_or_else(|| StoreError::not_found("key of order", id.0))?;
        self.0.sealer.open_text(&key_place(&id.0.to_string()), &sealed)
    }

    /// The certificate is here: `finalizing` → `valid`, and it takes the place of the one before.
    ///
    /// # Errors
    /// When the order is in another state, as because nobody wants it any more.
    pub async fn issued(self, id: OrderId, app: Option<AppId>, new: NewCertificate) -> Result<OrderRow> {
        let mut write = Write::begin(self.0).await?;
        let before = step(&mut write, id, OrderState::Finalizing, OrderState::Valid).await?;
        sqlx::query("UPDATE orders SET sealed_key = NULL, trouble = NULL, next_try_at = NULL WHERE id = $1")
            .bind(id.0)
            .execute(write.conn())
            .await?;
        let origin = Origin { own: false, directory: Some(before.directory.clone()) };
        put(self.0, &mut write, &before.name, &new, origin).await?;
        let (kind, verb) = match before.renewal {
            true => ("certificate.renewed", "renewed"),
            false => ("certificate.issued", "issued"),
        };
        let event = NewEvent {
            kind,
            by: Principal::daemon().name,
            app,
            summary: format!(
                "The certificate of {} was {verb}; it is valid until {}.",
                before.name, new.not_after
            ),
            data: json!({
                "domain": before.name, "names": new.names, "not_after": new.not_after, "issuer": new.issuer,
                "directory": before.directory, "challenge": before.challenge,
            }),
        };
        write.event(event).await?;
        let row = get(&mut write, id).await?;
        write.commit().await?;
        Ok(row)
    }

    /// An order came to nothing. `next` says when another one is begun.
    ///
    /// # Errors
    /// When it is over already.
    pub async fn failed(
        self,
        id: OrderId,
        app: Option<AppId>,
        fault: Fault,
        trouble: OrderTrouble,
        next: Timestamp,
    ) -> Result<OrderRow> {
        self.failed_until(id, app, fault, trouble, None, next).await
    }

    /// As [`Acme::failed`], with the time before which the order's authority does not want to be asked again. Another
    /// authority may be asked at `next` all the same.
    ///
    /// # Errors
    /// As there.
    pub async fn failed_until(
        self,
        id: OrderId,
        app: Option<AppId>,
        fault: Fault,
        trouble: OrderTrouble,
        not_before: Option<Timestamp>,
        next: Timestamp,
    ) -> Result<OrderRow> {
        let mut write = Write::begin(self.0).await?;
        let row = get(&mut write, id).await?;
        let before = step(&mut write, id, row.state, OrderState::Failed).await?;
        sqlx::query(
            "UPDATE orders SET sealed_key = NULL, trouble = $1, fault = $2, next_try_at = $3 WHERE id = $4",
        )
        .bind(trouble_json(trouble.clone(), not_before)?)
        .bind(fault.as_str())
        .bind(next.0)
        .bind(id.0)
        .execute(write.conn())
        .await?;
        let what = if before.renewal { "was not renewed" } else { "was not issued" };
        let event = NewEvent {
            kind: "certificate.failed",
            by: Principal::daemon().name,
            app,
            summary: format!(
                "The certificate of {} {what} ({}); next try {next}.",
                before.name, trouble.kind
            ),
            data: json!({
                "domain": before.name, "renewal": before.renewal, "kind": trouble.kind,
                "said": trouble.detail, "directory": before.directory, "challenge": before.challenge,
                "next_try_at": next,
            }),
        };
        write.event(event).await?;
        let row = get(&mut write, id).await?;
        write.commit().await?;
        Ok(row)
    }

    /// Ends an order that nobody wants any more. One that is over stays as it is.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn cancel(self, id: OrderId) -> Result<()> {
        let mut write = Write::begin(self.0).await?;
        let row = get(&mut write, id).await?;
        if !row.state.is_settled() {
            step(&mut write, id, row.state, OrderState::Cancelled).await?;
            sqlx::query("UPDATE orders SET sealed_key = NULL, next_try_at = NULL WHERE id = $1")
                .bind(id.0)
                .execute(write.conn())
                .await?;
        }
        write.commit().await
    }

    /// What waits for its time may go on at `at`: the open order of a name, or the next after its last failed one.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn hurry(self, name: &DomainName, at: Timestamp) -> Result<()> {
        let mut write = Write::begin(self.0).await?;
        sqlx::query(
            "UPDATE orders SET next_try_at = $1 WHERE name = $2 AND next_try_at > $1
             AND id = (SELECT MAX(id) FROM orders WHERE name = $2)",
        )
        .bind(at.0)
        .bind(name.as_str().to_owned())
        .execute(write.conn())
        .await?;
        write.commit().await
    }

    /// Forgets orders that ended before a time, but for the newest of each name.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn prune(self, before: Timestamp) -> Result<u64> {
        let mut write = Write::begin(self.0).await?;
        let gone = sqlx::query(
            "DELETE FROM orders WHERE updated_at < $1 AND state IN ('valid', 'failed', 'cancelled')
             AND id NOT IN (SELECT MAX(id) FROM orders GROUP BY name)",
        )
        .bind(before.0)
        .execute(write.conn())
        .await?
        .rows_affected();
        write.commit().await?;
        Ok(gone)
    }

    /// The credentials of the account at an authority, as they were kept.
    ///
    /// # Errors
    /// When they do not open.
    pub async fn account(self, directory: &str) -> Result<Option<String>> {
        let row = sqlx::query("SELECT sealed FROM acme_accounts WHERE directory = $1")
            .bind(directory.to_owned())
            .fetch_optional(self.0.read())
            .await?;
        let Some(row) = row else { return Ok(None) };
        let sealed: String = row.try_get("sealed")?;
        self.0.sealer.open_text(&account_place(directory), &sealed).map(Some)
    }

    /// Keeps the credentials of an account.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn keep_account(self, directory: &str, credentials: &str) -> Result<()> {
        let mut write = Write::begin(self.0).await?;
        let sealed = self.0.sealer.seal(&account_place(directory), credentials.as_bytes())?;
        sqlx::query(
            "INSERT INTO acme_accounts (directory, sealed, created_at) VALUES ($1, $2, $3)
             ON CONFLICT (directory) DO UPDATE SET sealed = excluded.sealed, created_at = excluded.created_at",
        )
        .bind(directory.to_owned())
        .bind(sealed)
        .bind(write.now.0)
        .execute(write.conn())
        .await?;
        let event = NewEvent {
            kind: "acme.registered",
            by: Principal::daemon().name,
            app: None,
            summary: format!("An account was made at the certificate authority {directory}."),
            data: json!({ "directory": directory }),
        };
        write.event(event).await?;
        write.commit().await
    }

    /// Forgets the account at an authority that does not know it any more.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn forget_account(self, directory: &str) -> Result<()> {
        let mut write = Write::begin(self.0).await?;
        sqlx::query("DELETE FROM acme_accounts WHERE directory = $1")
            .bind(directory.to_owned())
            .execute(write.conn())
            .await?;
        write.commit().await
    }
}

/// Ends what is on order for a name and removes its certificate.
pub(crate) async fn forget(write: &mut Write<'_>, name: &DomainName) -> Result<()> {
    sqlx::query(
        "UPDATE orders SET state = 'cancelled', sealed_key = NULL, next_try_at = NULL, updated_at = $1
         WHERE name = $2 AND state IN ('pending', 'authorizing', 'ready', 'finalizing')",
    )
    .bind(write.now.0)
    .bind(name.as_str().to_owned())
    .execute(write.conn())
    .await?;
    sqlx::query("DELETE FROM certificates WHERE name = $1")
        .bind(name.as_str().to_owned())
        .execute(write.conn())
        .await?;
    Ok(())
}

/// Moves an order from one state to the next; returns it as it was.
async fn step(write: &mut Write<'_>, id: OrderId, from: OrderState, to: OrderState) -> Result<OrderRow> {
    let row = get(write, id).await?;
    if row.state != from || !from.may_become(to) {
        return Err(stale(&row, from));
    }
    sqlx::query("UPDATE orders SET state = $1, updated_at = $2 WHERE id = $3")
        .bind(to.as_str().to_owned())
        .bind(write.now.0)
        .bind(id.0)
        .execute(write.conn())
        .await?;
    Ok(row)
}

fn stale(row: &OrderRow, expected: OrderState) -> StoreError {
    StoreError::Stale {
        what: format!("the order for {}", row.name),
        expected: expected.as_str().to_owned(),
        found: row.state.as_str().to_owned(),
    }
}

async fn get(write: &mut Write<'_>, id: OrderId) -> Result<OrderRow> {
    let sql = format!("{SELECT} WHERE id = $1");
    let row = sqlx::query(assembled(sql)).bind(id.0).fetch_optional(write.conn()).await?;
    row.as_ref().map(from_row).transpose()?.ok_or_else(|| StoreError::not_found("order", id.0))
}

fn trouble_json(trouble: OrderTrouble, not_before: Option<Timestamp>) -> Result<String> {
    let detail = storable(&trouble.detail.0, MAX_TROUBLE).into();
    row::to_json("orders", "trouble", &Kept { trouble: OrderTrouble { detail, ..trouble }, not_before })
}

fn key_place(row: &str) -> Place<'_> {
    Place { column: "orders/sealed_key", row }
}

fn account_place(row: &str) -> Place<'_> {
    Place { column: "acme_accounts/sealed", row }
}

fn from_row(r: &AnyRow) -> Result<OrderRow> {
    let fault: Option<String> = r.try_get("fault")?;
    let kept: Option<Kept> = row::json_opt(r, "orders", "trouble")?;
    Ok(OrderRow {
        id: OrderId(r.try_get("id")?),
        name: row::name(r, "orders", "name")?,
        directory: r.try_get("directory")?,
        challenge: row::word(r, "orders", "challenge", ChallengeKind::parse)?,
        renewal: row::flag(r, "renewal")?,
        state: row::word(r, "orders", "state", OrderState::parse)?,
        url: r.try_get("url")?,
        not_before: kept.as_ref().and_then(|k| k.not_before),
        trouble: kept.map(|k| k.trouble),
        fault: fault
            .map(|t| Fault::parse(&t).ok_or_else(|| StoreError::corrupt("orders", "fault", &t)))
            .transpose()?,
        next_try_at: row::time_opt(r, "next_try_at")?,
        created_at: row::time(r, "created_at")?,
        updated_at: row::time(r, "updated_at")?,
    })
}
