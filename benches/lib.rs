//! Measurements; see the README beside this file. The programs are the benches of this package.
