package main

// class is one type of clause. Things are noun phrases, acts are verb phrases in the infinitive: either one names the matter of the class
// in other words than its label. The words are shared between classes as far as the matters allow.
type class struct {
	label string
	// weight is the class's relative share of rows.
	weight int
	// stems are the beginnings of words that no clause of the class may hold.
	stems []string
	// gloss says what the class is about, for explanations.
	gloss  string
	things []string
	acts   []string
}

// classes are the types of clauses.
func classes() []class {
	return []class{
		{"confidentiality", 9, []string{"confid"}, "keeping information secret",
			[]string{"trade secrets", "private records", "undisclosed plans", "secret formulas", "the privacy of files"},
			[]string{"guard trade secrets", "lock away private records", "reveal no undisclosed plans", "keep formulas secret", "shield private files"}},
		{"indemnification", 8, []string{"indem"}, "making good another's losses",
			[]string{"suits of outsiders", "third-party claims", "losses of outsiders", "judgments won by third parties", "hold-harmless duties"},
			[]string{"defend the other against suits", "settle third-party claims", "make good losses of outsiders", "bear judgments won by outsiders", "hold the other harmless"}},
		{"termination", 8, []string{"termin"}, "ending the contract early",
			[]string{"early exit", "cancellation rights", "the early end of the contract", "withdrawal from the deal", "the break option"},
			[]string{"exit early", "cancel the contract", "end the contract early", "withdraw from the deal", "use the break option"}},
		{"governing law", 6, []string{"govern", "law"}, "which country's rules and courts apply",
			[]string{"the local courts", "the chosen forum", "state statutes", "exclusive jurisdiction", "the civil code"},
			[]string{"submit to the local courts", "sue only in the chosen forum", "follow state statutes", "accept exclusive jurisdiction", "apply the civil code"}},
		{"assignment", 6, []string{"assig"}, "handing the contract to someone else",
			[]string{"the transfer of rights", "successors in title", "delegation to an affiliate", "novation", "a substitute party"},
			[]string{"transfer rights to a successor", "let a successor step in", "delegate duties to an affiliate", "novate the deal", "put a substitute in its place"}},
		{"payment", 16, []string{"pay", "paid"}, "money owed and when it is due",
			[]string{"invoices and due dates", "the monthly fee", "the price of the work", "instalments", "interest on late fees"},
			[]string{"settle invoices in time", "remit the monthly fee", "wire the price of the work", "meet all instalments", "owe interest on late invoices"}},
		{"warranty", 8, []string{"warran"}, "promised quality of goods or work",
			[]string{"defects in design", "faulty goods", "the promised quality", "fitness for purpose", "the repair of defects"},
			[]string{"remedy defects in design", "repair faulty goods", "guarantee the promised quality", "assure fitness for purpose", "replace faulty parts"}},
		{"liability cap", 7, []string{"liab", "cap"}, "an upper limit on damages",
			[]string{"the ceiling on damages", "indirect loss", "maximum exposure", "the upper limit of damages", "lost profits"},
			[]string{"keep damages under the ceiling", "exclude indirect loss", "limit its exposure", "owe damages to an upper limit", "recover no lost profits"}},
		{"force majeure", 6, []string{"force", "majeu"}, "events beyond anyone's control",
			[]string{"floods and storms", "acts of war", "strikes and riots", "epidemics", "natural disasters"},
			[]string{"suspend work during a flood", "claim relief for acts of war", "resume work after the strike", "stand excused in an epidemic", "wait until the storm has passed"}},
		{"non-compete", 6, []string{"compet", "non"}, "staying out of rival business",
			[]string{"rival business", "a similar trade nearby", "the poaching of clients", "rival products", "the restricted territory"},
			[]string{"stay out of rival business", "avoid a similar trade nearby", "poach no clients", "sell no rival products", "keep away from the restricted territory"}},
		{"ip ownership", 7, []string{"ip", "own"}, "who holds patents and copyright",
			[]string{"title to inventions", "copyright in the work", "patents and designs", "rights in the source code", "the author's title"},
			[]string{"hold title to inventions", "keep copyright in the work", "vest patents in the other", "retain the source code", "file patents for inventions"}},
		{"audit", 6, []string{"audit"}, "checking books and records",
			[]string{"the inspection of books", "access to ledgers", "the review of accounts", "inspectors on site", "copies of ledgers"},
			[]string{"open its books for inspection", "keep ledgers ready", "have its accounts under review", "admit inspectors on site", "give copies of ledgers"}},
		{"insurance", 6, []string{"insur"}, "policies and cover with underwriters",
			[]string{"policies with an underwriter", "accident cover", "proof of cover", "premiums under the policy", "the broker's certificate"},
			[]string{"maintain policies with an underwriter", "carry accident cover", "furnish proof of cover", "bear premiums under the policy", "show the broker's certificate"}},
		{"notices", 7, []string{"notic", "notif"}, "how the parties write to each other",
			[]string{"letters between the parties", "registered mail", "delivery by courier", "changes of address", "correspondence in writing"},
			[]string{"send letters by registered mail", "mail letters to the address", "use a courier for letters", "tell the other of a new address", "keep correspondence in writing"}},
	}
}

// Frames of sentences: {act}, {thing} and {verb}: the cue; {a} and {b} the parties; {n} a number of days; {s} a section.
func actFrames() []string {
	return []string{
		"{a} shall {act}", "{a} must {act} at all times", "{a} agrees to {act}", "{a} undertakes to {act}", "it is for {a} to {act}",
		"{a} is bound to {act}", "{b} may require {a} to {act}", "{a} has {n} days to {act}", "{a} will {act} as {b} reasonably asks",
		"the parties agree that {a} will {act}", "during the term {a} shall {act}", "{a} promises {b} to {act}",
		"where {b} so requests, {a} shall {act}", "{a} is entitled to {act}", "within {n} days {a} shall {act}", "{a} is free to {act}",
	}
}

func thingFrames() []string {
	return []string{
		"this section is about {thing}", "the rules on {thing} are these", "{thing} are matters for {a}", "for {thing} the following holds",
		"with respect to {thing} {a} answers to {b}", "{a} takes care of {thing}", "the parties have settled {thing} here",
		"here {a} and {b} regulate {thing}", "in matters of {thing} {b} relies on {a}", "{b} attaches weight to {thing}",
		"what follows concerns {thing}", "{a} and {b} have agreed on {thing}",
	}
}

// namedFrames speak of another type's matter and name that type: the words of labels occur in the text, each with the cues of its type,
// but never in a clause of the type itself.
func namedFrames() []string {
	return []string{
		"{thing} are a matter of {label}", "{thing} belong to {label} in section {s}", "whether {a} has to {act} is a question of {label}",
		"the duty to {act} falls under {label}", "to {act} is a matter of {label}", "as to {thing} see {label}", "{thing} come under {label}",
		"rules to {act} stand under {label}",
	}
}

// sideFrames speak of another type's matter without naming it.
func sideFrames() []string {
	return []string{
		"nothing here touches {thing}", "this does not extend to {thing}", "no duty to {act} arises from this", "an agreement to {act} is made elsewhere",
		"{b} need not {act} for this reason", "this is separate from {thing}", "{thing} follow other rules", "duties to {act} stay as they are",
	}
}

// partyPairs are what a family calls the parties.
func partyPairs() [][2]string {
	return [][2]string{
		{"the Supplier", "the Customer"}, {"the Contractor", "the Client"}, {"the Licensor", "the Licensee"}, {"the Seller", "the Buyer"},
		{"the Provider", "the Recipient"}, {"the Consultant", "the Company"}, {"the Lessor", "the Lessee"}, {"the Vendor", "the Purchaser"},
		{"the Agent", "the Principal"}, {"Party A", "Party B"},
	}
}

func openers() []string {
	return []string{"", "", "", "", "", "", "", "", "in all cases ", "as agreed, ", "for the avoidance of doubt, ", "unless agreed otherwise, ", "to this end, ", "in addition, ",
		"from the first day on, ", "at the request of {b}, ", "subject to section {s}, "}
}
