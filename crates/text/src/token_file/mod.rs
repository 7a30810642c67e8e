//! Files of tokens, mapped.
