//! Certificates that visitors are shown, one per name that wants one. Private keys are sealed.

use berth_schemas::{DomainName, Timestamp};
use serde_json::json;
use sqlx::{Row, any::AnyRow};

use crate::{
    error::Result,
    model::{AppId, NewEvent, Principal},
    row,
    seal::Place,
    store::Inner,
    write::Write,
};

const COLUMNS: &str = "SELECT name, names, chain, sealed_key, issuer, fingerprint, own, directory,
    not_before, not_after, renew_at, asked_at, created_at FROM certificates";

/// A certificate, without its key.
#[derive(Debug, Clone, PartialEq)]
pub struct CertificateRow {
    /// The name that wants it.
    pub name: DomainName,
    /// All names that it is for, as it says.
    pub names: Vec<String>,
    /// PEM, its own certificate first.
    pub chain: String,
    /// Who issued it.
    pub issuer: String,
    /// SHA-256 of the certificate, in hex.
    pub fingerprint: String,
    /// Somebody attached it; it is not renewed.
    pub own: bool,
    /// Directory of the authority that it was ordered from.
    pub directory: Option<String>,
    /// Valid from.
    pub not_before: Timestamp,
    /// Valid until.
    pub not_after: Timestamp,
    /// When it is to be renewed.
    pub renew_at: Option<Timestamp>,
    /// When the authority is to be asked again when it should be renewed.
    pub asked_at: Option<Timestamp>,
    /// When it came.
    pub created_at: Timestamp,
}

/// A certificate that has come.
#[derive(Clone)]
pub struct NewCertificate {
    /// All names that it is for.
    pub names: Vec<String>,
    /// PEM, its own certificate first.
    pub chain: String,
    /// Private key as PEM; sealed by the store.
    pub key: String,
    /// Who issued it.
    pub issuer: String,
    /// SHA-256 of the certificate, in hex.
    pub fingerprint: String,
    /// Valid from.
    pub not_before: Timestamp,
    /// Valid until.
    pub not_after: Timestamp,
    /// When it is to be renewed.
    pub renew_at: Option<Timestamp>,
}

/// Certificates of a [`crate::Store`].
#[derive(Clone, Copy)]
pub struct Certificates<'a>(pub(crate) &'a Inner);

impl Certificates<'_> {
    /// All certificates, without keys.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn all(self) -> Result<Vec<CertificateRow>> {
        let rows = sqlx::query(COLUMNS).fetch_all(self.0.read()).await?;
        rows.iter().map(from_row).collect()
    }

    /// All certificates with their keys as PEM. One whose key does not open is left out and told in the log: it
    /// must not take the others down.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn with_keys(self) -> Result<Vec<(CertificateRow, String)>> {
        let rows = sqlx::query(COLUMNS).fetch_all(self.0.read()).await?;
        let mut all = Vec::with_capacity(rows.len());
        for r in &rows {
            let row = from_row(r)?;
            let sealed: String = r.try_get("sealed_key")?;
            match self.0.sealer.open_text(&place(row.name.as_str()), &sealed) {
                Ok(key) => all.push((row, key)),
                Err(error) => tracing::error!(%error, name = %row.name, "a certificate cannot be used"),
            }
        }
        Ok(all)
    }

    /// The certificate of this very name.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn by_name(self, name: &DomainName) -> Result<Option<CertificateRow>> {
        let row = sqlx::query(
            "SELECT name, names, chain, issuer, fingerprint, own, directory,
            not_before, not_after, renew_at, asked_at, created_at FROM certificates WHERE name = $1",
        )
        .bind(name.as_str().to_owned())
        .fetch_optional(self.0.read())
        .await?;
        row.as_ref().map(from_row).transpose()
    }

    /// Attaches a certificate of somebody's own; what is on order for the name is not wanted any more.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn attach(
        self,
        by: &Principal,
        app: AppId,
        name: &DomainName,
        new: NewCertificate,
    ) -> Result<()> {
        let mut write = Write::begin(self.0).await?;
        crate::acme::forget(&mut write, name).await?;
        put(self.0, &mut write, name, &new, Origin { own: true, directory: None }).await?;
        let event = NewEvent {
            kind: "certificate.attached",
            by: by.name.clone(),
            app: Some(app),
            summary: format!("A certificate was attached to {name}; it is valid until {}.", new.not_after),
            data: json!({ "domain": name, "names": new.names, "not_after": new.not_after }),
        };
        write.event(event).await?;
        write.commit().await
    }

    /// Removes the certificate of a name that is not wanted any more; false if there is none.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn remove(self, by: &Principal, app: Option<AppId>, name: &DomainName) -> Result<bool> {
        let mut write = Write::begin(self.0).await?;
        let gone = sqlx::query("DELETE FROM certificates WHERE name = $1")
            .bind(name.as_str().to_owned())
            .execute(write.conn())
            .await?
            .rows_affected()
            > 0;
        if gone {
            let event = NewEvent {
                kind: "certificate.removed",
                by: by.name.clone(),
                app,
                summary: format!("The certificate of {name} was removed."),
                data: json!({ "domain": name }),
            };
            write.event(event).await?;
        }
        write.commit().await?;
        Ok(gone)
    }

    /// Notes when a certificate is to be renewed, and when the authority is to be asked again.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn set_renewal(
        self,
        name: &DomainName,
        renew_at: Timestamp,
        asked_at: Option<Timestamp>,
    ) -> Result<()> {
        let mut write = Write::begin(self.0).await?;
        sqlx::query("UPDATE certificates SET renew_at = $1, asked_at = $2 WHERE name = $3")
            .bind(renew_at.0)
            .bind(asked_at.map(|t| t.0))
            .bind(name.as_str().to_owned())
            .execute(write.conn())
            .await?;
        write.commit().await
    }
}

/// Where a certificate comes from.
pub(crate) struct Origin {
    pub(crate) own: bool,
    pub(crate) directory: Option<String>,
}

/// Puts a certificate in the place of the one before.
pub(crate) async fn put(
    inner: &Inner,
    write: &mut Write<'_>,
    name: &DomainName,
    new: &NewCertificate,
    origin: Origin,
) -> Result<()> {
    let sealed = inner.sealer.seal(&place(name.as_str()), new.key.as_bytes())?;
    sqlx::query(
        "INSERT INTO certificates (name, names, chain, sealed_key, issuer, fingerprint, own, directory,
            not_before, not_after, renew_at, asked_at, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, NULL, $12)
         ON CONFLICT (name) DO UPDATE SET names = excluded.names, chain = excluded.chain,
            sealed_key = excluded.sealed_key, issuer = excluded.issuer, fingerprint = excluded.fingerprint,
            own = excluded.own, directory = excluded.directory,
            not_before = excluded.not_before, not_after = excluded.not_after, renew_at = excluded.renew_at,
            asked_at = NULL, created_at = excluded.created_at",
    )
    .bind(name.as_str().to_owned())
    .bind(row::to_json("certificates", "names", &new.names)?)
    .bind(new.chain.clone())
    .bind(sealed)
    .bind(new.issuer.clone())
    .bind(new.fingerprint.clone())
    .bind(i64::from(origin.own))
    .bind(origin.directory)
    .bind(new.not_before.0)
    .bind(new.not_after.0)
    .bind(new.renew_at.map(|t| t.0))
    .bind(write.now.0)
    .execute(write.conn())
    .await?;
    Ok(())
}

fn place(row: &str) -> Place<'_> {
    Place { column: "certificates/sealed_key", row }
}

fn from_row(r: &AnyRow) -> Result<CertificateRow> {
    let name: DomainName = row::name(r, "certificates", "name")?;
    Ok(CertificateRow {
        name,
        names: row::json(r, "certificates", "names")?,
        chain: r.try_get("chain")?,
        issuer: r.try_get("issuer")?,
        fingerprint: r.try_get("fingerprint")?,
        own: row::flag(r, "own")?,
        directory: r.try_get("directory")?,
        not_before: row::time(r, "not_before")?,
        not_after: row::time(r, "not_after")?,
        renew_at: row::time_opt(r, "renew_at")?,
        asked_at: row::time_opt(r, "asked_at")?,
        created_at: row::time(r, "created_at")?,
    })
}
