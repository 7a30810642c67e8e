//! Documents of files, folders, patterns and standard input.
