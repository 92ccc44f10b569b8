// Package spot watches for the word that a cloud takes this machine away: AWS (IMDSv2: spot/instance-action, and the earlier rebalance
// recommendation as a log line), Google Cloud (instance/preempted), Azure (scheduled events of type Preempt or Terminate). Kubernetes says
// the same by SIGTERM, which needs no watcher.
//
// A notice is best effort everywhere: a worker that never hears one is a worker that was killed, and loses no more than that one does.
package spot
