-- SPDX-License-Identifier: Apache-2.0
-- Key columns are what queries need; body is the noun as JSON. Where a column repeats a field of body, the column is the
-- truth. Times in columns are microseconds since 1970 in UTC, 0 for none.

CREATE TABLE head (
    id       INTEGER PRIMARY KEY CHECK (id = 1),
    next     INTEGER NOT NULL,           -- position of the next event
    last_at  INTEGER NOT NULL            -- time of the newest event
) STRICT;
INSERT INTO head (id, next, last_at) VALUES (1, 0, 0);

CREATE TABLE counters (
    name   TEXT PRIMARY KEY,
    value  INTEGER NOT NULL
) STRICT;

CREATE TABLE meta (
    name   TEXT PRIMARY KEY,
    value  TEXT NOT NULL
) STRICT;

CREATE TABLE events (
    position  INTEGER PRIMARY KEY,       -- gapless from 0, in commit order
    id        TEXT NOT NULL UNIQUE,
    stream    TEXT NOT NULL,
    type      TEXT NOT NULL,
    at        INTEGER NOT NULL,
    agent     TEXT NOT NULL,
    run       TEXT NOT NULL,
    decision  TEXT NOT NULL,
    approval  TEXT NOT NULL,
    parts     INTEGER NOT NULL,          -- how many
    leaf      BLOB NOT NULL              -- verbatim, what the log commits to
) STRICT;
CREATE INDEX events_type     ON events (type, position);
CREATE INDEX events_agent    ON events (agent, position) WHERE agent <> '';
CREATE INDEX events_run      ON events (run, position) WHERE run <> '';
CREATE INDEX events_decision ON events (decision, position) WHERE decision <> '';
CREATE INDEX events_approval ON events (approval, position) WHERE approval <> '';

CREATE TABLE parts (
    position  INTEGER NOT NULL REFERENCES events (position),
    name      TEXT NOT NULL,
    salt      BLOB NOT NULL,
    bytes     BLOB,
    erased    TEXT NOT NULL,             -- why the bytes are gone, '' while they are here
    PRIMARY KEY (position, name)
) STRICT;

CREATE TABLE types (
    name  TEXT PRIMARY KEY,
    body  TEXT NOT NULL
) STRICT;

CREATE TABLE agents (
    id       TEXT PRIMARY KEY,
    name     TEXT NOT NULL UNIQUE,       -- rows stay after retirement, so a name is used once
    version  INTEGER NOT NULL,
    body     TEXT NOT NULL
) STRICT;

CREATE TABLE instances (
    seq              INTEGER PRIMARY KEY,
    id               TEXT NOT NULL UNIQUE,
    agent            TEXT NOT NULL,
    carried          TEXT NOT NULL,
    carried_version  INTEGER NOT NULL,
    body             TEXT NOT NULL
) STRICT;
CREATE INDEX instances_agent ON instances (agent, seq);

CREATE TABLE join_codes (
    hash        TEXT PRIMARY KEY,
    expires_at  INTEGER NOT NULL,
    body        TEXT NOT NULL
) STRICT;

CREATE TABLE once (
    name   TEXT PRIMARY KEY,
    until  INTEGER NOT NULL
) STRICT;
CREATE INDEX once_until ON once (until);

CREATE TABLE people (
    id       TEXT PRIMARY KEY,
    name     TEXT NOT NULL UNIQUE,
    version  INTEGER NOT NULL,
    body     TEXT NOT NULL
) STRICT;

CREATE TABLE login_codes (
    hash        TEXT PRIMARY KEY,
    expires_at  INTEGER NOT NULL,
    body        TEXT NOT NULL
) STRICT;

CREATE TABLE runs (
    seq        INTEGER PRIMARY KEY,
    id         TEXT NOT NULL UNIQUE,
    agent      TEXT NOT NULL,
    instance   TEXT NOT NULL,
    parent     TEXT NOT NULL,
    state      TEXT NOT NULL,
    version    INTEGER NOT NULL,
    label      TEXT NOT NULL,
    steps      INTEGER NOT NULL,
    max_steps  INTEGER NOT NULL,
    bytes      INTEGER NOT NULL,
    max_bytes  INTEGER NOT NULL,
    calls      TEXT NOT NULL,            -- spent calls by stake, JSON, '' for none
    body       TEXT NOT NULL
) STRICT;
CREATE INDEX runs_agent    ON runs (agent, seq);
CREATE INDEX runs_instance ON runs (instance, seq) WHERE instance <> '';
CREATE INDEX runs_parent   ON runs (parent, seq) WHERE parent <> '';
CREATE INDEX runs_state    ON runs (state, seq);

CREATE TABLE handles (
    server  TEXT NOT NULL,
    kind    TEXT NOT NULL,
    value   TEXT NOT NULL,
    run     TEXT NOT NULL,
    PRIMARY KEY (server, kind, value)
) STRICT;

CREATE TABLE grants (
    seq          INTEGER PRIMARY KEY,
    id           TEXT NOT NULL UNIQUE,
    run          TEXT NOT NULL,
    agent        TEXT NOT NULL,
    call_digest  TEXT NOT NULL,
    state        TEXT NOT NULL,
    changed_at   INTEGER NOT NULL,
    reason       TEXT NOT NULL,
    body         TEXT NOT NULL
) STRICT;
CREATE INDEX grants_run   ON grants (run, seq);
CREATE INDEX grants_agent ON grants (agent, seq);
CREATE INDEX grants_state ON grants (state, seq);

CREATE TABLE approvals (
    seq          INTEGER PRIMARY KEY,
    id           TEXT NOT NULL UNIQUE,
    state        TEXT NOT NULL,
    run          TEXT NOT NULL,
    call_digest  TEXT NOT NULL,
    version      INTEGER NOT NULL,
    body         TEXT NOT NULL
) STRICT;
CREATE INDEX approvals_state ON approvals (state, seq);
CREATE INDEX approvals_run   ON approvals (run, seq);
CREATE INDEX approvals_call  ON approvals (call_digest, seq);

CREATE TABLE bundles (
    version  INTEGER PRIMARY KEY,
    body     TEXT NOT NULL
) STRICT;

CREATE TABLE servers (
    name  TEXT PRIMARY KEY,
    id    TEXT NOT NULL,
    body  TEXT NOT NULL
) STRICT;

CREATE TABLE entries (
    server  TEXT NOT NULL,
    kind    TEXT NOT NULL,
    name    TEXT NOT NULL,
    body    TEXT NOT NULL,
    PRIMARY KEY (server, kind, name)
) STRICT;

CREATE TABLE pins (
    server  TEXT NOT NULL,
    kind    TEXT NOT NULL,
    name    TEXT NOT NULL,
    raw     BLOB,                        -- verbatim, not in body
    seen    BLOB,
    body    TEXT NOT NULL,
    PRIMARY KEY (server, kind, name)
) STRICT;

CREATE TABLE authors (
    seq     INTEGER PRIMARY KEY,
    server  TEXT NOT NULL,
    kind    TEXT NOT NULL,
    name    TEXT NOT NULL,
    at      INTEGER NOT NULL,
    body    TEXT NOT NULL
) STRICT;
CREATE INDEX authors_thing ON authors (server, at);

CREATE TABLE secrets (
    server  TEXT PRIMARY KEY,
    body    TEXT NOT NULL
) STRICT;

CREATE TABLE notices (
    kind      TEXT NOT NULL,
    id        TEXT NOT NULL,
    final     INTEGER NOT NULL,
    until     INTEGER NOT NULL,          -- 0 = for good
    position  INTEGER NOT NULL,
    body      TEXT NOT NULL,
    PRIMARY KEY (kind, id)
) STRICT;
