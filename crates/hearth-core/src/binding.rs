//! Who owns which member: bind, release, retire, as pure rules.
