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
			[]string{"the secrecy of documents", "private business information", "trade secrets", "undisclosed plans", "sensitive records",
				"information that is not public", "secret formulas", "internal figures", "the hush around the project", "know-how shared in trust",
				"restricted material", "data meant for few eyes"},
			[]string{"keep secret what it learns", "guard private data", "disclose nothing to outsiders", "share documents on a need-to-know basis only",
				"hide trade secrets from the public", "withhold restricted material from the press", "treat internal figures as secret",
				"return secret papers on request", "shield sensitive records from view", "reveal no plans", "lock away private files",
				"remain silent about the project"}},
		{"indemnification", 8, []string{"indem"}, "making good another's losses",
			[]string{"losses from claims of third parties", "the cost of defending a suit", "damages awarded to outsiders", "claims brought by strangers",
				"harm caused to others", "the defence of third-party suits", "reimbursement of legal costs", "settlements with injured people",
				"judgments won by outsiders", "expenses of a defence", "making the other whole", "hold-harmless duties"},
			[]string{"hold the other harmless", "defend the other against suits", "make good losses from third-party claims",
				"reimburse legal costs of a defence", "compensate the other for claims of strangers", "bear judgments won by outsiders",
				"settle claims of injured people for the other", "stand in for damages awarded to others", "take over the defence of suits",
				"keep the other free from third-party claims", "refund expenses of a defence", "absorb losses caused to others"}},
		{"termination", 8, []string{"termin"}, "ending the contract early",
			[]string{"the end of the contract", "early exit", "cancellation rights", "winding up the cooperation", "the right to walk away",
				"expiry before time", "ending the deal after a breach", "an exit for convenience", "the last day of service", "rescission",
				"closing out the project", "the break option"},
			[]string{"end the contract early", "cancel the deal after an uncured breach", "walk away from the contract", "bring the cooperation to an end",
				"exit for convenience", "wind up open work", "rescind the deal", "close out the project before time", "stop the contract with immediate effect",
				"use the break option", "withdraw from the deal", "dissolve the contract"}},
		{"governing law", 6, []string{"govern", "law"}, "which country's rules and courts apply",
			[]string{"the courts of the seat", "the statutes of the state", "the chosen forum", "rules on conflict of jurisdictions", "the place of trial",
				"the legal system of the country", "exclusive jurisdiction", "the civil code", "venue for disputes", "local statutes",
				"the choice of forum", "interpretation under national rules"},
			[]string{"submit to the courts of the seat", "accept exclusive jurisdiction", "read the contract under the civil code",
				"bring disputes before the chosen forum", "follow the statutes of the state", "construe the text by national rules",
				"sue only at the agreed venue", "apply the legal system of the country", "leave conflict rules aside",
				"recognize the place of trial", "try cases in the local court", "decide questions by local statutes"}},
		{"assignment", 6, []string{"assig"}, "handing the contract to someone else",
			[]string{"the transfer of rights to a successor", "a change of the contracting person", "delegation of duties", "handing over the contract",
				"novation", "the conveyance of rights", "successors in title", "passing the contract to an affiliate", "a substitute party",
				"transfer by merger", "transferred duties", "the move of rights to a buyer"},
			[]string{"transfer rights to a successor", "delegate duties to an affiliate", "hand over the contract", "pass the contract to a buyer",
				"convey rights to another company", "novate the deal", "put a substitute party in its place", "move duties to an affiliate",
				"transfer the contract by merger", "let a successor step in", "cede rights to a bank", "give its place to another company"}},
		{"payment", 10, []string{"pay", "paid"}, "money owed and when it is due",
			[]string{"invoices and due dates", "the monthly fee", "the price of the work", "late fees and interest", "the amounts due",
				"instalments", "the billing cycle", "remittance by bank transfer", "the advance on the price", "outstanding balances",
				"the currency of invoices", "settlement of invoices"},
			[]string{"settle invoices in time", "remit the monthly fee", "transfer the price by bank", "send invoices each month", "bill the work in arrears",
				"owe interest on late sums", "clear outstanding balances", "wire the amounts due", "advance part of the price", "charge late fees",
				"make up instalments", "credit the price to the account"}},
		{"warranty", 8, []string{"warran"}, "promised quality of goods or work",
			[]string{"goods free from defects", "fitness for purpose", "promised quality", "workmanlike performance", "conformity with the specification",
				"the repair of faulty goods", "merchantable quality", "replacement of defective parts", "latent faults", "sound materials",
				"defects in design", "assured features"},
			[]string{"repair faulty goods", "replace defective parts", "assure fitness for purpose", "deliver goods free from defects",
				"promise sound materials", "work in a workmanlike manner", "conform to the specification", "correct latent faults",
				"vouch for merchantable quality", "remedy defects in design", "stand behind assured features", "guarantee the promised quality"}},
		{"liability cap", 7, []string{"liab", "cap"}, "an upper limit on damages",
			[]string{"an upper limit on damages", "the exclusion of indirect loss", "a ceiling on claims", "maximum exposure", "lost profits",
				"limits to what can be recovered", "consequential loss", "the highest sum recoverable", "a bound on total damages",
				"limited responsibility", "the ceiling of twelve monthly fees", "exposure under all claims"},
			[]string{"answer for damages up to a ceiling only", "limit its exposure to twelve monthly fees", "exclude indirect loss",
				"bound the total damages", "recover no lost profits", "hold its responsibility below a maximum", "rule out consequential loss",
				"keep all claims under the ceiling", "respond for no more than the highest sum", "restrict what can be recovered",
				"owe damages to an upper limit", "restrain exposure under all claims"}},
		{"force majeure", 6, []string{"force", "majeu"}, "events beyond anyone's control",
			[]string{"floods and earthquakes", "events beyond control", "acts of war", "strikes and riots", "epidemics", "natural disasters",
				"storms and fire", "trade embargoes", "unforeseeable events", "blocked ports", "power failures of the region", "acts of nature"},
			[]string{"suspend duties during a flood", "be excused by events beyond control", "wait until the storm has passed",
				"resume work after the strike", "claim relief for acts of war", "stand excused in an epidemic", "delay work in natural disasters",
				"be spared for the time of an embargo", "lay down work because of riots", "put duties on hold during an earthquake",
				"be released while ports are blocked", "rely on unforeseeable events"}},
		{"non-compete", 6, []string{"compet", "non"}, "staying out of rival business",
			[]string{"rival business", "a similar trade nearby", "work for rivals", "the restricted market", "poaching of clients",
				"a ban on similar services", "rival products", "the restricted territory", "solicitation of customers", "side business in the same trade",
				"a stake in a rival", "hiring by rivals"},
			[]string{"stay out of rival business", "work for no rival", "avoid a similar trade nearby", "solicit no customers of the other",
				"refrain from selling rival products", "keep away from the restricted market", "open no similar shop in the territory",
				"hold no stake in a rival", "poach no clients", "abstain from side business in the same trade", "take no post with rivals",
				"set up no rival company"}},
		{"ip ownership", 7, []string{"ip", "own"}, "who holds patents and copyright",
			[]string{"title to inventions", "copyright in the work product", "patents and designs", "rights in the source code", "intellectual creations",
				"title in the deliverables", "the author's rights", "inventions made on the job", "trademarks and logos", "derivative works",
				"proprietary software", "moral rights"},
			[]string{"hold title to inventions", "keep copyright in the work product", "vest patents in the other", "retain rights in the source code",
				"register designs in its name", "acquire title in the deliverables", "waive moral rights", "claim authorship of derivative works",
				"reserve its trademarks", "obtain the author's rights", "file patents for inventions", "license proprietary software back"}},
		{"audit", 6, []string{"audit"}, "checking books and records",
			[]string{"inspection of books", "the review of accounts", "access to ledgers", "an examination of records", "visits by accountants",
				"the check of compliance files", "inspectors on site", "copies of ledgers", "spot checks of the books", "yearly reviews of accounts",
				"the inspection of premises", "verification of statements"},
			[]string{"open its books for inspection", "admit inspectors on site", "let accountants review the ledgers", "allow spot checks of the accounts",
				"keep ledgers ready for examination", "give copies of accounts to reviewers", "submit to a yearly review of the books",
				"verify statements against ledgers", "inspect the premises", "examine compliance files", "grant access to the books",
				"support an examination of its accounts"}},
		{"insurance", 6, []string{"insur"}, "policies and cover with underwriters",
			[]string{"policies with an underwriter", "cover against accidents", "proof of cover", "premiums and deductibles", "the sum under the policy",
				"general accident cover", "a certificate from the underwriter", "professional cover", "policy limits", "the broker's certificate",
				"cover for workers", "renewal of policies"},
			[]string{"maintain policies with an underwriter", "carry cover against accidents", "furnish proof of cover", "renew its policies in time",
				"bear premiums and deductibles", "buy professional cover", "name the other in its policy", "show the broker's certificate",
				"take out cover for workers", "keep policy limits intact", "procure accident cover", "hold policies of the agreed sum"}},
		{"notices", 7, []string{"notic", "notif"}, "how the parties write to each other",
			[]string{"letters between the parties", "messages by registered mail", "the address for correspondence", "communication in writing",
				"delivery by courier", "the receipt of letters", "the contact desk", "changes of address", "correspondence by fax",
				"the date of receipt", "formal messages", "the mailing address"},
			[]string{"send letters by registered mail", "write to the contact desk", "deliver messages by courier", "tell the other of a new address",
				"direct correspondence to the mailing address", "confirm the receipt of letters", "communicate in writing", "mail formal messages",
				"announce changes of address", "address letters to the head office", "hand messages to the contact desk",
				"count days from the date of receipt"}},
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

func sideFrames() []string {
	return []string{
		"nothing here touches {thing}", "{thing} are left to section {s}", "section {s} deals with {thing}", "this does not extend to {thing}",
		"{thing} follow other rules", "duties to {act} stay as they are", "whether {a} has to {act} is answered in section {s}",
		"no duty to {act} arises from this", "an agreement to {act} is made elsewhere", "questions of {thing} remain open",
		"{b} need not {act} for this reason", "this is separate from {thing}",
	}
}

func plainFrames() []string {
	return []string{
		"section {s} applies by analogy", "the parties act in good faith", "changes need the written form", "headings are for convenience",
		"{b} acts with due care", "the annex forms part of this", "this holds for {n} months", "single invalid parts do not harm the rest",
		"both sides have read this", "time is of the essence", "the list in annex {s} is final", "{b} bears the burden of proof",
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
