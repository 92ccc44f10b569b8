// Package simulate drives control's pure Decide through days of a pool in seconds: thousands of workers that are taken away and come back,
// tenants that submit more than there is room for, gangs of all sizes. It answers how well a pool is used, whether tenants get their
// shares, and how long runs of each priority wait, before anybody pays for machines; and its tests hold Decide to these figures.
//
// Time passes in steps of a tick. What takes a real fleet less (a message pulled, a gang formed, a swap of HEAD) happens within one.
package simulate
