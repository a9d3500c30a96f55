//! CRI behind a small trait: the client over a unix socket and an in-process fake server.
