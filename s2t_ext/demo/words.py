"""The words of the demo's problems, by part of speech; with the numbers they are its vocabulary."""

NAMES = """
Ada Alan Alice Amir Amy Ana Anders Anna Arun Asha Astrid Ben Bianca Boris Bruno Carla Carlos Cecil
Chen Clara Colin Daisy Dana Daniel Diego Dora Edgar Elena Eli Elsa Emil Emma Enzo Erik Esther Eva
Farah Felix Fiona Flora Frank Frida Gabor Gita Grace Greta Gus Hana Hannah Hans Harry Hazel Hector
Helen Hugo Ida Igor Ines Ingrid Iris Isaac Ivan Jack Jana Jasper Joan Jonas Jorge Joy Judy Juan
Kai Karl Kate Kenji Kim Klara Kofi Kurt Lara Lars Laura Lea Lena Leo Lily Linus Lisa Liu Lola Luca
Lucy Luis Luna Mara Marco Maria Mario Mark Marta Max Maya Mei Mia Mila Milan Mina Mona Nadia Nals
Nancy Neil Nele Nils Nina Noah Nora Olaf Olga Olive Omar Oscar Otto Pablo Paula Pedro Penny Petra
Pia Priya Quinn Rahul Ralf Rania Ravi Rita Robin Rosa Ruth Sami Sara Selma Simon Sofia Sonja Stella
Sven Tara Theo Tim Tina Tom Uma Umar Ursula Vera Victor Viola Wanda Wei Willa Yara Yuki Zara Zoe
""".split()

THINGS = """
acorns almonds anchors apples apricots arrows badges bagels baskets batteries beads beans bells
belts berries blankets blocks boats bolts bones books boots bottles bowls boxes bracelets bricks
brooms brushes buckets bulbs buns buttons cakes cameras candles cans cards carrots cards chairs
chalks charms cherries chestnuts chips clips clocks clovers coats cobs coconuts coins combs cones
cookies corks cranes crates crayons crowns crystals cubes cups curtains cushions daisies darts
dates diamonds dice dishes dolls doors doughnuts drums eggs emeralds erasers fans feathers ferns
figs flags flasks flowers flutes folders forks frames garlands gears gems gloves goblets grapes
guitars hammers harps hats helmets hooks horns horseshoes jackets jars jewels jugs kettles keys
kites knives knots ladders lamps lanterns leaves lemons lenses letters limes locks logs magnets
mangoes maps marbles masks matches medals melons mirrors mittens mugs mushrooms nails napkins
needles nets notebooks nuts oars olives onions oranges ornaments paddles pages paintings papers
peaches peanuts pearls pears pebbles pencils pens peppers pies pillows pins pipes planks plates
plums poles postcards posters pots prunes pumpkins puzzles quills quilts radishes rakes ribbons
rings robots rockets ropes roses rubies rugs rulers sacks saddles sandals sapphires saucers saws
scarves screws seeds shells shields shirts shoes shovels skates sleds slippers snails socks spades
spoons sponges squares stamps staples stars statues stickers sticks stones stools straws strings
suitcases swords tables tapes tents thimbles threads tickets tiles tins tomatoes tools tops torches
towels toys trays trophies trumpets tubes tulips turnips twigs umbrellas vases vests violins wafers
walnuts watches wheels whistles wreaths yams zippers
""".split()

PLACES = """
abbey airport alley arcade attic bakery balcony barn basement bay beach bridge brook cabin cafe
camp canal canyon castle cave cellar chapel circus clinic cliff club coast college corner cottage
court creek dam deck desert dock dune factory fair farm ferry field forest fort fountain gallery
garage garden gate glacier grove gym hall hangar harbour hill hospital hostel hotel house hut inn
island jetty kiosk kitchen lagoon lake lane library lighthouse lodge loft mall manor market marsh
meadow mill mine monastery museum oasis office orchard palace park pasture path pavilion pier plaza
pond port quarry quay ranch reef ridge river road school shed shop shore spring square stable
stadium
station stream studio swamp temple theatre tower town trail tunnel valley village vineyard warehouse
wharf windmill workshop yard zoo
""".split()

#: What adds to a stock of things, most frequent first.
GAINS = """
finds buys gets wins earns collects receives adds picks gathers borrows inherits catches obtains
acquires harvests discovers unearths procures imports amasses accrues salvages recovers retrieves
reclaims accepts fetches grabs hoards garners gleans nets bags scoops secures stockpiles accumulates
unpacks assembles crafts builds carves knits sews bakes brews grows breeds mints prints casts forges
orders
""".split()

#: What takes away from it, most frequent first.
LOSSES = """
loses sells gives drops breaks eats spends donates discards lends trades mails returns ships removes
burns wastes forfeits misplaces surrenders exports relinquishes squanders sheds scraps smashes
crushes
ruins spoils forgets abandons bequeaths bestows auctions pawns barters dumps trashes tosses hands
exchanges dispatches delivers scatters sinks spills shreds melts destroys consumes devours offers
posts pledges
""".split()

ORDINALS = "one two three four five six".split()

FUNCTION = ". ? has at the how many now plus minus is so answer step".split()
