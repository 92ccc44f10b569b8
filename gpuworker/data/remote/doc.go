// Package remote brings data sets and models that lie elsewhere to this machine: https:// files of hosts that the operator allows, objects of
// an S3 server, and repositories of the Hugging Face hub and of ModelScope, by the hubs' own HTTP protocols.
//
// Downloads go to a cache that is addressed by content. They are resumed where they broke off, compared with the checksums that the server
// names (SHA-256 of large files, git's blob SHA-1 of small ones, the ETag of S3), and bounded in bytes and time. What was fetched is shown as a
// folder of hard links into the cache, so that whoever reads local files reads these, too; its Origin names the revision that was resolved.
//
// Protocols: huggingface_hub 0.36 (tree and resolve), modelscope 1.30 (repo/files, repo/tree, repo); which files of a repository are a split's
// data: datasets 4.0 (data_files).
package remote
