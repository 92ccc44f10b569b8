// Package chaos proves that a fleet loses no work: it starts a real one (broker, lease server, object store, control, workers and their rank
// processes), keeps runs in it, and breaks it by a seeded schedule over the rows of the chaos matrix. Proxies stand between all processes
// (package faultproxy); what passes them is the history, and package check judges it together with what the store holds at the end.
//
// The runs are toys whose final hash shows every lost, doubled or reordered step (package chaostest); a part of the time a small model is
// trained in earnest. That the suite finds bugs is itself tested, with bugs planted by a build tag (package plantedbug).
package chaos
