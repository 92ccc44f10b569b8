// Package faultproxy stands between a client and a server and misbehaves on command: Link is a TCP proxy with partitions (both ways or one),
// latency, jitter, bandwidth, slicing and resets; S3 is an HTTP proxy that knows conditional writes and can answer with errors, apply a write
// and lose its answer, cut bodies, or pretend to a store without working conditions; NATSTap reads which deliveries and acks pass a link.
//
// Faults change while connections live. A held direction delays bytes, as a partition does under TCP: nothing is lost until an end gives up.
package faultproxy
