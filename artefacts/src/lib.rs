//! Guest kernel and root file system, from pinned sources to cached files.
