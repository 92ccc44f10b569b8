package schemas

import "time"

// The HTTP API's JSON views. Routes:
//
//	POST /v1/runs                                   RunSpec -> SubmitReply (201; 200 when it is a duplicate)
//	GET  /v1/runs?tenant=&state=&pool=&name=&since=&until=&counts=&limit=&after=  RunList (state: one or more, with commas; times: RFC 3339)
//	GET  /v1/runs/{tenant}/{id}                     RunView
//	POST /v1/runs/{tenant}/{id}/cancel|pause|resume RunView
//	GET  /v1/runs/{tenant}/{id}/events              SSE: id = stream id, event = Event.Type, data = Event; Last-Event-ID resumes
//	PUT  /v1/inputs/{tenant}/{sha256}               the file's bytes -> File (without Path)
//	GET  /v1/runs/{tenant}/{id}/stages/{stage}      StageView
//	GET  /v1/runs/{tenant}/{id}/outputs             OutputList
//	GET  /v1/runs/{tenant}/{id}/outputs/{path...}   the file's bytes
//	GET  /v1/runs/{tenant}/{id}/checkpoints         CheckpointList
//	POST /v1/runs/{tenant}/{id}/checkpoints/verify|gc?dry=  CheckpointList
//	PUT|DELETE /v1/runs/{tenant}/{id}/checkpoints/{name}/pin  204
//	GET  /v1/workers?pool=                          WorkerList
//	GET  /v1/pools                                  PoolList
//	GET|PUT /v1/pools/{pool}/policy                 Policy (ETag, If-Match)
//	GET  /v1/dlq?tenant=&limit=&after=              DeadLetterList
//	POST /v1/dlq/{tenant}/{id}/retry                SubmitReply
//	DELETE /v1/dlq/{tenant}/{id}                    204
//	POST /v1/session                                SignIn (or the bearer token) -> Session and its cookie
//	GET|DELETE /v1/session                          Session, renewed; 204, signed out
//	POST /v1/session/codes                          SignIn with a code that works once
//
// Errors are an APIError with the status of HTTPStatus.

// SubmitReply is the front's answer to a submitted spec, over NATS and HTTP alike: that reply is the acknowledgement.
type SubmitReply struct {
	Run    string   `json:"run,omitempty"`
	Tenant string   `json:"tenant,omitempty"`
	State  RunState `json:"state,omitempty"`
	// Duplicate is set when the same tenant and key (or id) had been submitted before; the run is that one.
	Duplicate bool       `json:"duplicate,omitempty"`
	Error     *ErrorInfo `json:"error,omitempty"`
}

// SignIn is a code that signs a browser in once; Expires is told by who makes it.
type SignIn struct {
	Code    string    `json:"code"`
	Expires time.Time `json:"expires,omitzero"`
}

// Session is a browser's session with the API; Version is the server's, told to who is signed in.
type Session struct {
	SignedIn bool      `json:"signed_in"`
	Expires  time.Time `json:"expires,omitzero"`
	Version  string    `json:"version,omitempty"`
}

// APIError is the body of every HTTP error.
type APIError struct {
	Error *ErrorInfo `json:"error"`
}

// RunView is a run as users see it.
type RunView struct {
	Tenant   string   `json:"tenant"`
	Run      string   `json:"run"`
	Name     string   `json:"name,omitempty"`
	Pool     string   `json:"pool"`
	Priority int      `json:"priority"`
	State    RunState `json:"state"`
	// Reason says why the run is in its state, or what it waits for.
	Reason string       `json:"reason,omitempty"`
	Error  *ErrorInfo   `json:"error,omitempty"`
	Stages []StageState `json:"stages"`
	// Stage is the train stage at work, Step its last committed step, Generation the gang's incarnation.
	Stage      string          `json:"stage,omitempty"`
	Step       int64           `json:"step"`
	Generation uint64          `json:"generation"`
	Members    []Member        `json:"members,omitempty"`
	Ended      []GenerationEnd `json:"ended,omitempty"`
	// Manifest is the newest commit.
	Manifest *ManifestRef `json:"manifest,omitempty"`
	// Progress holds the latest live figures (best effort; in lists of running runs only): loss, step, steps, rows, ...
	Progress map[string]string `json:"progress,omitempty"`
	// Time is how the run's wall time was used; nil while it has not begun.
	Time *RunTime `json:"time,omitempty"`
	// Spec is set in the detail view.
	Spec    *RunSpec  `json:"spec,omitempty"`
	Created time.Time `json:"created,omitzero"`
	Updated time.Time `json:"updated,omitzero"`
}

// StageView is one stage with what it has made: the result of a prep, eval or export stage, the newest commit of a train stage (without the
// ranges of its parts).
type StageView struct {
	Stage    StageState   `json:"stage"`
	Result   *StageResult `json:"result,omitempty"`
	Manifest *Manifest    `json:"manifest,omitempty"`
}

// RunList is one page of runs, the newest first; Next is the "after" of the next page, empty at the end.
type RunList struct {
	Runs []RunView `json:"runs"`
	Next string    `json:"next,omitempty"`
	// Total counts the runs that the filter selects, on all pages.
	Total int `json:"total"`
	// Counts says how many runs are in each state, by the filter without its states; only where the filter asks for it.
	Counts map[RunState]int `json:"counts,omitempty"`
	// Unread counts runs whose records could not be read yet, and which are in neither: asking again goes on reading.
	Unread int `json:"unread,omitempty"`
}

// RunFilter selects runs: empty fields select all. After is RunList.Next.
type RunFilter struct {
	Tenant string     `json:"tenant,omitempty"`
	States []RunState `json:"states,omitempty"`
	Pool   string     `json:"pool,omitempty"`
	// Name selects runs whose name or id holds this text, whatever its case.
	Name string `json:"name,omitempty"`
	// Since and Until select runs accepted at or after, and before, a time.
	Since time.Time `json:"since,omitzero"`
	Until time.Time `json:"until,omitzero"`
	// Counts asks for RunList.Counts.
	Counts bool   `json:"counts,omitempty"`
	Limit  int    `json:"limit,omitempty"`
	After  string `json:"after,omitempty"`
}

// OutputList lists the files of a run's outputs; Name is the path below the run's output folder.
type OutputList struct {
	Outputs []Object `json:"outputs"`
}

// CheckpointView is one checkpoint of a run.
type CheckpointView struct {
	// Name is "<step>-<generation>".
	Name       string    `json:"name"`
	Stage      string    `json:"stage"`
	Step       int64     `json:"step"`
	Generation uint64    `json:"generation"`
	World      int       `json:"world"`
	Parts      int       `json:"parts"`
	Bytes      int64     `json:"bytes"`
	Created    time.Time `json:"created"`
	// Role is "head", "previous", "final", "pinned" or "" (kept by nothing but time); Pruned says that parts are gone.
	Role   string `json:"role,omitempty"`
	Pruned bool   `json:"pruned,omitempty"`
	// Verified is set by a verification: "ok", or what is wrong.
	Verified string `json:"verified,omitempty"`
}

// CheckpointList lists a run's checkpoints, oldest first; Dropped is what a collection has deleted, or would.
type CheckpointList struct {
	Checkpoints  []CheckpointView `json:"checkpoints,omitempty"`
	Dropped      int              `json:"dropped,omitempty"`
	DroppedBytes int64            `json:"dropped_bytes,omitempty"`
}

// WorkerView is one worker of the inventory, as its agent registers it.
type WorkerView struct {
	Name        string `json:"name"`
	Incarnation string `json:"incarnation"`
	Pool        string `json:"pool"`
	Host        string `json:"host"`
	PID         int    `json:"pid"`
	Devices     int    `json:"devices"`
	Device      string `json:"device"`
	// Busy names what the worker holds: "<tenant>/<run>/<stage>/<index>", empty when idle.
	Busy     string    `json:"busy,omitempty"`
	Draining bool      `json:"draining,omitempty"`
	Started  time.Time `json:"started"`
	// GPUs is what the GPUs of the worker's host said of themselves last, in the driver's order; none where there are none or nothing is known.
	GPUs []GPUView `json:"gpus,omitempty"`
}

// GPUView is what a GPU says of itself; -1 is a number that it does not tell.
type GPUView struct {
	Name string `json:"name"`
	// Utilization is the percentage of the last sampling period in which a kernel ran.
	Utilization int64 `json:"utilization"`
	// MemoryUsed and MemoryTotal are bytes.
	MemoryUsed  int64 `json:"memory_used"`
	MemoryTotal int64 `json:"memory_total"`
	// PowerW is the draw of the board in watts, TemperatureC that of the chip in degrees Celsius.
	PowerW       int64 `json:"power_w"`
	TemperatureC int64 `json:"temperature_c"`
	// Slowed says why the clock is lower than it could be, empty when it is not.
	Slowed string `json:"slowed,omitempty"`
}

// WorkerList lists workers.
type WorkerList struct {
	Workers []WorkerView `json:"workers"`
}

// PoolView is what control decided last for a pool.
type PoolView struct {
	Pool string `json:"pool"`
	// Owner is the control replica that schedules the pool.
	Owner string `json:"owner,omitempty"`
	Turn  *Turn  `json:"turn,omitempty"`
	// Queued and Running count runs, Workers counts live workers, WorkersDemanded is the autoscaling signal.
	Queued          int    `json:"queued"`
	Running         int    `json:"running"`
	Workers         int    `json:"workers"`
	WorkersDemanded int    `json:"workers_demanded"`
	Reason          string `json:"reason,omitempty"`
}

// PoolDemand is what an autoscaler needs to know of a pool.
type PoolDemand struct {
	Pool string `json:"pool"`
	// WorkersDemanded is how many workers the pool could use now, Workers how many live.
	WorkersDemanded int `json:"workers_demanded"`
	Workers         int `json:"workers"`
	// Surplus is how many may go; Removable names the workers that hold neither a seat nor a part, those that drain first: only they may be
	// taken away without making a gang form again.
	Surplus   int      `json:"surplus"`
	Removable []string `json:"removable"`
}

// PoolList lists pools.
type PoolList struct {
	Pools []PoolView `json:"pools"`
}

// HTTPStatus maps an error's code to the HTTP status that the API answers with.
func HTTPStatus(c Code) int {
	switch c {
	case CodeUsage, CodeInvalid, CodeData, CodeModel, CodeUnsupported:
		return 400
	case CodeAuth:
		return 401
	case CodeNotFound:
		return 404
	case CodeConflict, CodeFenced:
		return 409
	case CodeTimeout:
		return 504
	case CodeUnavailable:
		return 503
	}
	return 500
}
