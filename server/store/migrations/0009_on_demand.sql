-- Domains that an app approved when somebody asked for them. asked_at: when the app was last asked; refused_at: since
-- when it says no.
ALTER TABLE domains ADD COLUMN origin TEXT NOT NULL DEFAULT 'added';
ALTER TABLE domains ADD COLUMN asked_at BIGINT;
ALTER TABLE domains ADD COLUMN refused_at BIGINT;
