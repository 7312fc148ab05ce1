"""Pictures with faces marked by people: AI Hub's JSON, VOC's XML, COCO's JSON, and tables of boxes."""
