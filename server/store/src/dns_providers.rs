//! DNS providers: their credentials, sealed, and the zones that they serve. They belong to the installation, not to
//! a project.

use berth_schemas::{
    DomainName, Timestamp,
    dns::{DnsCredentials, DnsProviderKind},
    ids::DnsProviderName,
};
use serde_json::json;
use sqlx::{Row, any::AnyRow};

use crate::{
    error::{Result, StoreError},
    model::{NewEvent, Principal},
    row,
    seal::Place,
    store::Inner,
    write::Write,
};

/// A DNS provider without its credentials.
#[derive(Debug, Clone, PartialEq)]
pub struct DnsProviderRow {
    /// Its name.
    pub name: DnsProviderName,
    /// What it is.
    pub kind: DnsProviderKind,
    /// Zones that it serves.
    pub zones: Vec<DomainName>,
    /// Whether it serves all zones that its credentials reach; `zones` are those found so far.
    pub found: bool,
    /// When it was added or last given other credentials.
    pub updated_at: Timestamp,
    /// Who did that.
    pub updated_by: String,
}

/// A DNS provider to be added.
#[derive(Debug, Clone)]
pub struct NewDnsProvider {
    /// Its name.
    pub name: DnsProviderName,
    /// Its credentials.
    pub credentials: DnsCredentials,
    /// Zones that it serves.
    pub zones: Vec<DomainName>,
    /// Whether it serves all zones that its credentials reach.
    pub found: bool,
    /// Whether it may take the place of one of the same name.
    pub replace: bool,
}

/// DNS providers of a [`crate::Store`].
#[derive(Clone, Copy)]
pub struct DnsProviders<'a>(pub(crate) &'a Inner);

impl DnsProviders<'_> {
    /// All of them, by name.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn list(self) -> Result<Vec<DnsProviderRow>> {
        let rows = sqlx::query(
            "SELECT name, kind, zones, found, updated_at, updated_by FROM dns_providers ORDER BY name",
        )
        .fetch_all(self.0.read())
        .await?;
        rows.iter().map(from_row).collect()
    }

    /// The provider of this name.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn by_name(self, name: &DnsProviderName) -> Result<Option<DnsProviderRow>> {
        let row = sqlx::query(
            "SELECT name, kind, zones, found, updated_at, updated_by FROM dns_providers WHERE name = $1",
        )
        .bind(name.as_str().to_owned())
        .fetch_optional(self.0.read())
        .await?;
        row.as_ref().map(from_row).transpose()
    }

    /// The credentials of a provider, opened.
    ///
    /// # Errors
    /// When there is none of this name, or they were tampered with.
    pub async fn credentials(self, name: &DnsProviderName) -> Result<DnsCredentials> {
        let row = sqlx::query("SELECT sealed FROM dns_providers WHERE name = $1")
            .bind(name.as_str().to_owned())
            .fetch_optional(self.0.read())
            .await?
            .ok_or_else(|| StoreError::not_found("dns_provider", name))?;
        let sealed: String = row.try_get("sealed")?;
        let clear = self.0.sealer.open(&place(name), &sealed)?;
        serde_json::from_slice(&clear).map_err(|_| StoreError::corrupt("dns_providers", "sealed", ""))
    }

    /// Adds a provider, or gives one other credentials and zones.
    ///
    /// # Errors
    /// When the name is taken and may not be replaced.
    pub async fn put(self, by: &Principal, new: NewDnsProvider) -> Result<DnsProviderRow> {
        let clear = serde_json::to_vec(&new.credentials).map(zeroize::Zeroizing::new);
        let clear = clear.map_err(|_| StoreError::corrupt("dns_providers", "sealed", ""))?;
        let sealed = self.0.sealer.seal(&place(&new.name), &clear)?;
        let mut write = Write::begin(self.0).await?;
        let there = sqlx::query("SELECT name FROM dns_providers WHERE name = $1")
            .bind(new.name.as_str().to_owned())
            .fetch_optional(write.conn())
            .await?
            .is_some();
        if there && !new.replace {
            return Err(StoreError::Taken { kind: "dns_provider", name: new.name.to_string() });
        }
        let row = DnsProviderRow {
            name: new.name,
            kind: new.credentials.kind(),
            zones: new.zones,
            found: new.found,
            updated_at: write.now,
            updated_by: by.name.clone(),
        };
        sqlx::query(
            "INSERT INTO dns_providers (name, kind, sealed, zones, found, updated_at, updated_by)
             VALUES ($1, $2, $3, $4, $5, $6, $7)
             ON CONFLICT (name) DO UPDATE SET kind = excluded.kind, sealed = excluded.sealed,
                 zones = excluded.zones, found = excluded.found, updated_at = excluded.updated_at,
                 updated_by = excluded.updated_by",
        )
        .bind(row.name.as_str().to_owned())
        .bind(row.kind.as_str())
        .bind(sealed)
        .bind(row::to_json("dns_providers", "zones", &row.zones)?)
        .bind(i64::from(row.found))
        .bind(row.updated_at.0)
        .bind(row.updated_by.clone())
        .execute(write.conn())
        .await?;
        let (kind, verb) = if there {
            ("dns_provider.replaced", "was given other credentials")
        } else {
            ("dns_provider.added", "was added")
        };
        let event = NewEvent {
            kind,
            by: by.name.clone(),
            app: None,
            summary: format!("DNS provider {} ({}) {verb}.", row.name, row.kind.as_str()),
            data: json!({ "provider": row.name, "kind": row.kind, "zones": row.zones }),
        };
        write.event(event).await?;
        write.commit().await?;
        Ok(row)
    }

    /// Notes which zones a provider's credentials reach by now, unless it was told its zones.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn found(self, name: &DnsProviderName, zones: &[DomainName]) -> Result<()> {
        let mut write = Write::begin(self.0).await?;
        sqlx::query("UPDATE dns_providers SET zones = $1 WHERE name = $2 AND found = 1")
            .bind(row::to_json("dns_providers", "zones", &zones)?)
            .bind(name.as_str().to_owned())
            .execute(write.conn())
            .await?;
        write.commit().await
    }

    /// Removes a provider with its credentials.
    ///
    /// # Errors
    /// When there is none of this name.
    pub async fn remove(self, by: &Principal, name: &DnsProviderName) -> Result<()> {
        let mut write = Write::begin(self.0).await?;
        let gone = sqlx::query("DELETE FROM dns_providers WHERE name = $1")
            .bind(name.as_str().to_owned())
            .execute(write.conn())
            .await?
            .rows_affected();
        if gone == 0 {
            return Err(StoreError::not_found("dns_provider", name));
        }
        let event = NewEvent {
            kind: "dns_provider.removed",
            by: by.name.clone(),
            app: None,
            summary: format!("DNS provider {name} was removed."),
            data: json!({ "provider": name }),
        };
        write.event(event).await?;
        write.commit().await
    }
}

fn place(name: &DnsProviderName) -> Place<'_> {
    Place { column: "dns_providers/sealed", row: name.as_str() }
}

fn from_row(r: &AnyRow) -> Result<DnsProviderRow> {
    Ok(DnsProviderRow {
        name: row::name(r, "dns_providers", "name")?,
        kind: row::word(r, "dns_providers", "kind", DnsProviderKind::parse)?,
        zones: row::json(r, "dns_providers", "zones")?,
        found: row::flag(r, "found")?,
        updated_at: row::time(r, "updated_at")?,
        updated_by: r.try_get("updated_by")?,
    })
}
